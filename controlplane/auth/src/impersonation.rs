//! Impersonation: a request that asks to be treated as another user's (`Impersonate-*` headers), if its own user may.

use crate::{
    Attributes, Authorizer, Denied, UserInfo, groups, names,
    user::{service_account_groups, split_service_account},
};
use http::HeaderMap;
use percent_encoding::percent_decode_str;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImpersonationError {
    /// 400: groups, a uid or extras without a user, or a header that is not text.
    #[error("{0}")]
    BadRequest(String),
    /// 403.
    #[error(transparent)]
    Denied(#[from] Denied),
}

const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// The user to act as, or `None` if the headers do not ask for it.
pub fn impersonate(
    authorizer: &Authorizer,
    user: &UserInfo,
    headers: &HeaderMap,
) -> Result<Option<UserInfo>, ImpersonationError> {
    let Some(mut wanted) = requested(headers)? else { return Ok(None) };
    for attributes in questions(user, &wanted) {
        authorizer.require(&attributes)?;
    }
    if let Some((namespace, _)) = split_service_account(&wanted.name)
        && wanted.groups.is_empty()
    {
        wanted.groups = service_account_groups(namespace);
    }
    if wanted.name == names::ANONYMOUS {
        wanted.add_group(groups::UNAUTHENTICATED);
    } else if !wanted.in_group(groups::UNAUTHENTICATED) {
        wanted.add_group(groups::AUTHENTICATED);
    }
    Ok(Some(wanted))
}

/// What the headers say.
fn requested(headers: &HeaderMap) -> Result<Option<UserInfo>, ImpersonationError> {
    let text = |value: &http::HeaderValue, header: &str| {
        value
            .to_str()
            .map(str::to_owned)
            .map_err(|_| ImpersonationError::BadRequest(format!("the header {header} is not text")))
    };
    let mut wanted = UserInfo::default();
    for (header, value) in headers {
        let header = header.as_str();
        match header {
            "impersonate-user" => wanted.name = text(value, header)?,
            "impersonate-uid" => wanted.uid = text(value, header)?,
            "impersonate-group" => wanted.groups.push(text(value, header)?),
            _ => {
                let Some(key) = header.strip_prefix(EXTRA) else { continue };
                let key = percent_decode_str(key).decode_utf8_lossy().to_lowercase();
                wanted.extra.entry(key).or_default().push(text(value, header)?);
            }
        }
    }
    if !wanted.name.is_empty() {
        return Ok(Some(wanted));
    }
    if wanted == UserInfo::default() {
        return Ok(None);
    }
    let what = [(!wanted.groups.is_empty(), "groups"), (!wanted.uid.is_empty(), "a uid"), (true, "extras")];
    let what = what.iter().find(|(asked, _)| *asked).map_or("", |(_, what)| what);
    Err(ImpersonationError::BadRequest(format!("requested to impersonate {what} without impersonating a user")))
}

/// What the user must be allowed to do for it.
fn questions<'a>(user: &'a UserInfo, wanted: &'a UserInfo) -> Vec<Attributes<'a>> {
    let ask = |group: &'a str, resource: &'a str| Attributes::resource(user, "impersonate", group, resource);
    let mut questions = vec![match split_service_account(&wanted.name) {
        Some((namespace, name)) => ask("", "serviceaccounts").namespace(namespace).name(name),
        None => ask("", "users").name(&wanted.name),
    }];
    questions.extend(wanted.groups.iter().map(|group| ask("", "groups").name(group)));
    if !wanted.uid.is_empty() {
        questions.push(ask(AUTHENTICATION, "uids").name(&wanted.uid));
    }
    for (key, values) in &wanted.extra {
        let extra = |value: &'a String| ask(AUTHENTICATION, "userextras").subresource(key).name(value);
        questions.extend(values.iter().map(extra));
    }
    questions
}
