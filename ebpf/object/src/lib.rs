//! The compiled eBPF programs, embedded.
//!
//! One ELF object with BTF; its maps, programs and their names are described by `strake-abi`. The build script compiles
//! it from `ebpf/programs` with whatever `strake-bpf-toolchain` finds. Nothing prebuilt is in the repository.

#![forbid(unsafe_code)]

/// The ELF reader casts its headers in place, which needs their alignment.
#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static ALIGNED: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/programs.o")));

/// The object, aligned to 64 bytes; give it to `aya::EbpfLoader::load`.
pub static OBJECT: &[u8] = &ALIGNED.0;

#[cfg(test)]
mod tests {
    use super::OBJECT;

    #[test]
    fn object_is_an_aligned_elf_for_bpf() {
        assert_eq!(OBJECT.as_ptr().align_offset(64), 0);
        assert_eq!(&OBJECT[..4], b"\x7fELF");
        // e_machine of ELF64: EM_BPF is 247.
        assert_eq!(u16::from_le_bytes([OBJECT[18], OBJECT[19]]), 247);
    }
}
