//! Every program is accepted by this kernel's verifier, with room to spare.

use std::error::Error as _;

use anyhow::{Context, Result, bail, ensure};
use aya::programs::{CgroupSock, CgroupSockAddr, Program, ProgramError, Xdp};
use aya::{EbpfLoader, VerifierLogLevel};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use strake_abi::program::{CLASSIFIERS, SOCK_ADDR, SOCK_RELEASE, XDP_LB};

use crate::harness::classifier;

/// The kernel gives up at a million; programs that come near it stop loading with the next kernel.
/// Verifiers differ (`from_pod`: 204,000 on 6.18, 154,000 on 5.10).
const MOST: u32 = 250_000;

/// What the verifier looked at, where the kernel does not say so of a program that it took (before 5.16). It says so at
/// the end of its log, and a log is had of a load that fails: here for want of a descriptor, the last thing that it needs.
fn verified_by_log(name: &str) -> Result<u32> {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS);
    let mut bpf = loader.load(strake_bpf_object::OBJECT)?;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard)?;
    let result = match bpf.program_mut(name) {
        Some(Program::SchedClassifier(program)) => program.load(),
        Some(Program::CgroupSockAddr(program)) => program.load(),
        Some(Program::CgroupSock(program)) => program.load(),
        Some(Program::Xdp(program)) => program.load(),
        _ => Ok(()),
    };
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    let Err(ProgramError::LoadError { io_error, verifier_log }) = result else { bail!("{name}: {result:?}") };
    let log = verifier_log.to_string();
    let count = log.split("processed ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    count.with_context(|| format!("{name}: {io_error}, and the log has no count: {log}"))
}

fn told(name: &str, result: Result<(), ProgramError>) -> Result<()> {
    result.map_err(|error| {
        let source = error.source().map(ToString::to_string).unwrap_or_default();
        let log = match &error {
            ProgramError::LoadError { verifier_log, .. } => verifier_log.to_string(),
            _ => String::new(),
        };
        let from = log.len().saturating_sub(6000);
        anyhow::anyhow!("{name}: {error}: {source}\n{}", log.get(from..).unwrap_or(&log))
    })
}

fn load(have_set_retval: u8) -> Result<()> {
    let mut loader = EbpfLoader::new();
    let mut bpf = loader
        .override_global(strake_abi::config::HAVE_SET_RETVAL, &have_set_retval, true)
        .load(strake_bpf_object::OBJECT)
        .context("loading the object")?;
    for name in CLASSIFIERS {
        told(name, classifier(&mut bpf, name)?.load())?;
    }
    for name in SOCK_ADDR {
        let program: &mut CgroupSockAddr = bpf.program_mut(name).context(name)?.try_into()?;
        told(name, program.load())?;
    }
    let program: &mut CgroupSock = bpf.program_mut(SOCK_RELEASE).context(SOCK_RELEASE)?.try_into()?;
    told(SOCK_RELEASE, program.load())?;
    let program: &mut Xdp = bpf.program_mut(XDP_LB).context(XDP_LB)?.try_into()?;
    told(XDP_LB, program.load())?;

    println!("{:<16} {:>12} {:>10} {:>12}", "program", "verified", "bytes", "jited bytes");
    let mut over = Vec::new();
    for (name, program) in bpf.programs() {
        let info = match program {
            Program::SchedClassifier(p) => p.info()?,
            Program::CgroupSockAddr(p) => p.info()?,
            Program::CgroupSock(p) => p.info()?,
            Program::Xdp(p) => p.info()?,
            _ => anyhow::bail!("{name}: a program of a type that nothing attaches"),
        };
        let verified = info.verified_instruction_count().map_or_else(|| verified_by_log(name), Ok)?;
        let translated = info.size_translated().unwrap_or(0);
        println!("{name:<16} {verified:>12} {translated:>10} {:>12}", info.size_jitted());
        if verified >= MOST {
            over.push(name);
        }
    }
    ensure!(over.is_empty(), "more than {MOST} instructions verified: {}", over.join(", "));
    Ok(())
}

#[test]
fn every_program_is_verified_with_room_to_spare() -> Result<()> {
    load(0)
}

#[test]
fn the_hooks_that_set_an_error_load_where_the_kernel_has_the_helper() -> Result<()> {
    match load(1) {
        // bpf_set_retval is number 187; before 5.18 there is none, and the loader leaves the global at 0.
        Err(error) if format!("{error:#}").contains("func unknown#187") => {
            println!("this kernel has no bpf_set_retval: a connect() is refused with EPERM");
            Ok(())
        }
        result => result,
    }
}

#[test]
fn the_object_has_the_maps_that_the_abi_names_and_no_other() -> Result<()> {
    let bpf = EbpfLoader::new().load(strake_bpf_object::OBJECT)?;
    let mut found: Vec<&str> = bpf.maps().map(|(name, _)| name).filter(|n| !n.starts_with('.')).collect();
    let mut named = strake_abi::program::MAPS.to_vec();
    found.sort_unstable();
    named.sort_unstable();
    assert_eq!(found, named);
    Ok(())
}
