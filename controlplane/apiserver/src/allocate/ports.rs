//! Node ports: one for each port of a Service that opens them, and one for a load balancer's health check.

use std::collections::HashMap;

use serde_json::{Value, json};
use strake_machinery::{field::Path, meta};

use super::{Reservation, ServiceAllocator};

fn service_type(service: &Value) -> &str {
    match meta::str_at(service, &["spec", "type"]) {
        "" => "ClusterIP",
        other => other,
    }
}

fn wants_node_ports(service: &Value) -> bool {
    match service_type(service) {
        "NodePort" => true,
        "LoadBalancer" => {
            meta::at(service, &["spec", "allocateLoadBalancerNodePorts"]).and_then(Value::as_bool).unwrap_or(true)
        }
        _ => false,
    }
}

impl ServiceAllocator {
    fn any_port(&self) -> Option<u16> {
        let (first, last) = (*self.ports.start(), *self.ports.end());
        let count = u32::from(last - first) + 1;
        // As for addresses, the lower part is left to those who ask by number.
        let band = if count < 16 { 0 } else { (count / 32).clamp(16, 128) };
        let dynamic = count - band;
        let start = rand::random_range(0..dynamic);
        let mut taken = self.taken.lock();
        for offset in (0..dynamic).map(|step| band + (start + step) % dynamic).chain(0..band) {
            let port = first + offset as u16;
            if taken.ports.insert(port) {
                return Some(port);
            }
        }
        None
    }

    pub(super) fn this_port(&self, port: u16) -> Result<(), String> {
        if !self.ports.contains(&port) {
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                self.ports.start(),
                self.ports.end()
            ));
        }
        if self.taken.lock().ports.insert(port) { Ok(()) } else { Err("provided port is already allocated".to_owned()) }
    }

    pub(super) fn node_ports(
        &self,
        service: &mut Value,
        held: &[u16],
        reservation: &mut Reservation<'_>,
    ) -> Result<(), (Path, Value, String)> {
        let wanted = wants_node_ports(service);
        let local = service_type(service) == "LoadBalancer"
            && meta::str_at(service, &["spec", "externalTrafficPolicy"]) == "Local";
        let type_has_ports = matches!(service_type(service), "NodePort" | "LoadBalancer");
        let path = Path::new("spec");
        let mut mine: Vec<u16> = held.to_vec();
        // One number may serve the same port in two protocols.
        let mut by_port: HashMap<(u64, String), u16> = HashMap::new();
        let mut used: Vec<(u16, String)> = Vec::new();
        if let Some(ports) = service["spec"].get_mut("ports").and_then(Value::as_array_mut) {
            for (index, port) in ports.iter_mut().enumerate() {
                let asked = port["nodePort"].as_u64().unwrap_or(0);
                let protocol = port["protocol"].as_str().unwrap_or("TCP").to_owned();
                let at = || path.child("ports").index(index).child("nodePort");
                if !type_has_ports {
                    if let Some(map) = port.as_object_mut()
                        && asked != 0
                    {
                        map.remove("nodePort");
                    }
                    continue;
                }
                let number = port["port"].as_u64().unwrap_or(0);
                let chosen = if asked != 0 {
                    let asked = u16::try_from(asked)
                        .map_err(|_| (at(), json!(asked), "must be between 1 and 65535, inclusive".to_owned()))?;
                    let shared = used.iter().any(|(port, other)| *port == asked && *other != protocol);
                    if !mine.contains(&asked) && !shared {
                        self.this_port(asked).map_err(|why| (at(), json!(asked), why))?;
                        reservation.ports.push(asked);
                        mine.push(asked);
                    }
                    asked
                } else if wanted {
                    match by_port.iter().find(|((port, other), _)| *port == number && *other != protocol) {
                        Some((_, shared)) => *shared,
                        None => {
                            let free = self.any_port().ok_or_else(|| {
                                (at(), json!(0), "failed to allocate a nodePort: range is full".to_owned())
                            })?;
                            reservation.ports.push(free);
                            mine.push(free);
                            free
                        }
                    }
                } else {
                    continue;
                };
                by_port.insert((number, protocol.clone()), chosen);
                used.push((chosen, protocol));
                port["nodePort"] = json!(chosen);
            }
        }
        let asked = meta::i64_at(service, &["spec", "healthCheckNodePort"]).unwrap_or(0);
        if !local {
            meta::remove_at(service, &["spec", "healthCheckNodePort"]);
        } else if asked == 0 {
            let at = path.child("healthCheckNodePort");
            let free = self
                .any_port()
                .ok_or_else(|| (at, json!(0), "failed to allocate a healthCheckNodePort: range is full".to_owned()))?;
            reservation.ports.push(free);
            meta::set_at(service, &["spec", "healthCheckNodePort"], free);
        } else if let Ok(asked) = u16::try_from(asked)
            && !mine.contains(&asked)
        {
            let at = path.child("healthCheckNodePort");
            self.this_port(asked).map_err(|why| (at, json!(asked), why))?;
            reservation.ports.push(asked);
        }
        Ok(())
    }
}
