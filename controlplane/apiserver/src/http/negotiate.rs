//! Content negotiation: what the client can read, and in which shape it wants objects.
//!
//! Answers are JSON (YAML when asked); `as=Table` and `as=PartialObjectMetadata[List]` of meta.k8s.io are shapes of
//! either. Protobuf answers are not produced: a client that accepts nothing else gets 406.

/// How bytes are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// application/json
    Json,
    /// application/yaml
    Yaml,
}

/// In which shape objects are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The object itself.
    Object,
    /// meta.k8s.io/v1 Table (or v1beta1, which has the same fields).
    Table {
        /// `meta.k8s.io/v1` or `meta.k8s.io/v1beta1`.
        api_version: &'static str,
    },
    /// PartialObjectMetadata or PartialObjectMetadataList of meta.k8s.io/v1.
    Metadata {
        /// `meta.k8s.io/v1` or `meta.k8s.io/v1beta1`.
        api_version: &'static str,
    },
}

/// The outcome of negotiation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepted {
    /// How bytes are written.
    pub encoding: Encoding,
    /// In which shape objects are answered.
    pub shape: Shape,
}

impl Accepted {
    /// Plain JSON objects.
    pub const JSON: Self = Self { encoding: Encoding::Json, shape: Shape::Object };
}

/// One media range of an Accept header.
struct Range<'a> {
    media: &'a str,
    params: Vec<(&'a str, &'a str)>,
    quality: u16,
}

fn parse(accept: &str) -> Vec<Range<'_>> {
    let mut ranges: Vec<Range<'_>> = accept
        .split(',')
        .filter_map(|part| {
            let mut pieces = part.split(';');
            let media = pieces.next()?.trim();
            if media.is_empty() {
                return None;
            }
            let mut params = Vec::new();
            let mut quality = 1000;
            for piece in pieces {
                let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
                let (name, value) = (name.trim(), value.trim().trim_matches('"'));
                if name.eq_ignore_ascii_case("q") {
                    quality = value.parse::<f32>().map_or(0, |q| (q.clamp(0.0, 1.0) * 1000.0) as u16);
                } else {
                    params.push((name, value));
                }
            }
            Some(Range { media, params, quality })
        })
        .collect();
    ranges.sort_by_key(|range| std::cmp::Reverse(range.quality));
    ranges
}

/// Chooses the answer's encoding and shape from an Accept header (absent or empty: JSON objects).
///
/// # Errors
/// `NotAcceptable` when no media range of the header can be served.
pub fn accept(header: Option<&str>) -> Result<Accepted, NotAcceptable> {
    let header = header.unwrap_or("").trim();
    if header.is_empty() {
        return Ok(Accepted::JSON);
    }
    for range in parse(header) {
        if range.quality == 0 {
            continue;
        }
        let encoding = match range.media {
            "application/json" | "*/*" | "application/*" => Encoding::Json,
            "application/yaml" => Encoding::Yaml,
            _ => continue,
        };
        let get = |wanted: &str| range.params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        let api_version = match (get("g"), get("v")) {
            (Some("meta.k8s.io"), Some("v1")) => Some("meta.k8s.io/v1"),
            (Some("meta.k8s.io"), Some("v1beta1")) => Some("meta.k8s.io/v1beta1"),
            _ => None,
        };
        let shape = match (get("as"), api_version) {
            (None, _) => Shape::Object,
            (Some("Table"), Some(api_version)) => Shape::Table { api_version },
            (Some("PartialObjectMetadata" | "PartialObjectMetadataList"), Some(api_version)) => {
                Shape::Metadata { api_version }
            }
            // Some other transformation (aggregated discovery has its own negotiation): not this range.
            _ => continue,
        };
        return Ok(Accepted { encoding, shape });
    }
    Err(NotAcceptable)
}

/// No media type of the Accept header can be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("only the following media types are accepted: application/json, application/yaml")]
pub struct NotAcceptable;

/// Whether the Accept header asks for aggregated discovery, and in which version (`v2` or `v2beta1`).
pub fn aggregated_discovery(header: Option<&str>) -> Option<&'static str> {
    for range in parse(header.unwrap_or("")) {
        if range.media != "application/json" {
            continue;
        }
        let get = |wanted: &str| range.params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        match (get("g"), get("v"), get("as")) {
            (Some("apidiscovery.k8s.io"), Some("v2"), Some("APIGroupDiscoveryList")) => return Some("v2"),
            (Some("apidiscovery.k8s.io"), Some("v2beta1"), Some("APIGroupDiscoveryList")) => return Some("v2beta1"),
            (None, None, None) => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_go_that_prefers_protobuf_gets_json() {
        let got = accept(Some("application/vnd.kubernetes.protobuf,application/json"));
        assert_eq!(got, Ok(Accepted::JSON));
    }

    #[test]
    fn protobuf_only_is_not_acceptable() {
        assert_eq!(accept(Some("application/vnd.kubernetes.protobuf")), Err(NotAcceptable));
    }

    #[test]
    fn kubectl_get_is_answered_with_a_table() {
        let header = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        let got = accept(Some(header)).unwrap();
        assert_eq!(got.shape, Shape::Table { api_version: "meta.k8s.io/v1" });
    }

    #[test]
    fn metadata_informers_fall_back_to_json_metadata() {
        let header = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        let got = accept(Some(header)).unwrap();
        assert_eq!(got.shape, Shape::Metadata { api_version: "meta.k8s.io/v1" });
    }

    #[test]
    fn quality_orders_the_ranges() {
        let got = accept(Some("application/json;q=0.5, application/yaml")).unwrap();
        assert_eq!(got.encoding, Encoding::Yaml);
    }

    #[test]
    fn aggregated_discovery_is_chosen_before_plain_json() {
        let header = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(aggregated_discovery(Some(header)), Some("v2"));
        assert_eq!(aggregated_discovery(Some("application/json")), None);
    }
}
