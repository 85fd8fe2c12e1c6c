//! The identities of the control plane's own clients: certificates, kubeconfig files, kube clients.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::Client;
use strake_pki::{Credential, Identity, Kubeconfig, LEAF_VALIDITY, Pki};

use crate::Error;

/// The groups of the controllers' ServiceAccounts.
const ACCOUNTS: [&str; 2] = ["system:serviceaccounts", "system:serviceaccounts:kube-system"];

/// Names of the controllers that get a client before they ask for it.
const CONTROLLERS: [&str; 14] = [
    "deployment-controller",
    "replicaset-controller",
    "endpoint-controller",
    "endpointslice-controller",
    "namespace-controller",
    "generic-garbage-collector",
    "service-account-controller",
    "root-ca-cert-publisher",
    "certificate-controller",
    "node-controller",
    "clusterrole-aggregation-controller",
    "token-cleaner",
    "pod-garbage-collector",
    "load-balancer-ipam-controller",
];

/// Makes credentials for one cluster.
pub(crate) struct Credentials<'a> {
    pki: &'a Pki,
    data_dir: &'a Path,
    url: &'a str,
}

/// The controllers' clients by the name of their identity.
pub(crate) struct ControllerClients {
    known: HashMap<String, Client>,
    informers: Client,
}

impl ControllerClients {
    /// The client of a controller. One that has no identity of its own works under the controller manager's.
    pub(crate) fn get(&self, name: &str) -> Client {
        self.known.get(name).unwrap_or(&self.informers).clone()
    }
}

impl<'a> Credentials<'a> {
    /// Credentials for clients that reach the API at `url`.
    pub(crate) fn new(pki: &'a Pki, data_dir: &'a Path, url: &'a str) -> Self {
        Self { pki, data_dir, url }
    }

    fn kubeconfig(&self, server: &str, user: &str, identity: Identity, path: &Path) -> Result<(), Error> {
        let credential = Credential::Certificate(identity);
        Kubeconfig { server, ca_pem: self.pki.ca_pem(), cluster: "strake", user, credential }.write(path)?;
        Ok(())
    }

    /// Writes the kubeconfig files: the administrator's for use from outside, the others for stock components on
    /// this host. Answers the administrator's.
    pub(crate) fn write(&self, outside: &str) -> Result<PathBuf, Error> {
        let dir = self.data_dir.join("server/cred");
        let admin = self.pki.ensure_client(&dir, "admin", "kubernetes-admin", &["system:masters"])?;
        let path = self.data_dir.join("admin.kubeconfig");
        self.kubeconfig(outside, "kubernetes-admin", admin, &path)?;
        for stem in ["kube-scheduler", "kube-controller-manager"] {
            let user = format!("system:{stem}");
            let identity = self.pki.ensure_client(&dir, stem, &user, &[])?;
            self.kubeconfig(self.url, &user, identity, &dir.join(format!("{stem}.kubeconfig")))?;
        }
        Ok(path)
    }

    fn connect(&self, user: &str, identity: &Identity) -> Result<Client, Error> {
        let failed = |source: kube::Error| Error::Client { identity: user.to_owned(), source: Box::new(source) };
        let url = self.url.parse::<http::Uri>().map_err(|error| failed(kube::Error::HttpError(error.into())))?;
        let mut config = kube::Config::new(url);
        config.root_cert = Some(vec![self.pki.ca().certificate_der().to_vec()]);
        config.auth_info.client_certificate_data = Some(STANDARD.encode(&identity.certificate_pem));
        config.auth_info.client_key_data = Some(STANDARD.encode(&identity.key_pem).into());
        Client::try_from(config).map_err(failed)
    }

    /// A client for a user of the system.
    pub(crate) fn client(&self, user: &str) -> Result<Client, Error> {
        self.connect(user, &self.pki.issue_client(user, &[], LEAF_VALIDITY)?)
    }

    /// A client for the control plane itself, which may do everything.
    pub(crate) fn master(&self) -> Result<Client, Error> {
        let user = "system:apiserver";
        self.connect(user, &self.pki.issue_client(user, &["system:masters"], LEAF_VALIDITY)?)
    }

    /// The clients of the controllers, each with the identity of its stock ServiceAccount.
    pub(crate) fn controllers(&self) -> Result<ControllerClients, Error> {
        let mut known = HashMap::new();
        for name in CONTROLLERS {
            let user = format!("system:serviceaccount:kube-system:{name}");
            let identity = self.pki.issue_client(&user, &ACCOUNTS, LEAF_VALIDITY)?;
            known.insert(name.to_owned(), self.connect(&user, &identity)?);
        }
        Ok(ControllerClients { known, informers: self.client(strake_controllers::INFORMER_IDENTITY)? })
    }
}
