/** What a test device has beyond the least: software devices of wider vectors have larger subgroups, others none. */
import { subgroupOf } from "../../../backends/webgpu/device.ts";
import type { KernelTraits } from "../../../backends/webgpu/traits.ts";

/** Traits with half floats where a device has them, and with as many neighbours as it has, up to `most`. */
export async function richTraits(device: GPUDevice, base: KernelTraits, most = 8): Promise<KernelTraits> {
  const subgroup = await subgroupOf(device), halves = device.features.has("shader-f16");
  return { ...base, halves, ...(subgroup ? { subgroup: { ...subgroup, size: Math.min(most, subgroup.size) } } : {}) };
}
