//! Generates the gRPC types from `proto/flow.proto`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    tonic_prost_build::configure().compile_protos(&["proto/flow.proto"], &["proto"])?;
    Ok(())
}
