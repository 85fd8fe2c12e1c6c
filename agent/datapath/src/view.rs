//! A reader of the maps with the names of one moment: for long answers, which must not hold up an apply.
//!
//! May not know: what is answered (see `backends`, `frontends`).

use std::collections::HashMap;

use strake_abi::service::{Backend, Service, ServiceKey6};

use crate::maps::{KernelMaps, MapsError};
use crate::names::Names;

/// The maps, opened once more, and who is who.
pub struct View {
    pub(crate) maps: KernelMaps,
    pub(crate) names: Names,
}

impl View {
    /// Every frontend's row; not those that only say that an address exists.
    pub(crate) fn services(&self) -> Result<HashMap<ServiceKey6, Service>, MapsError> {
        let v4 = self.maps.services.all()?.into_iter().map(|(key, service)| (ServiceKey6::from(key), service));
        let all = v4.chain(self.maps.services_v6.all()?);
        Ok(all.filter(|(_, service)| service.id != 0).collect())
    }

    /// A Service's slice.
    pub(crate) fn slice(&self, service: &Service) -> Result<Vec<Backend>, MapsError> {
        let end = service.backend_base.saturating_add(service.backend_count).min(self.maps.slots());
        (service.backend_base..end).map(|slot| self.maps.backend(slot)).collect()
    }
}
