/** What kernel generators may assume about a device. Kernel text depends on the specification, these traits and the variant alone. */

/** The traits of a device; features count only when a canary kernel has proved them (see canaries.ts). */
export interface KernelTraits {
  /** Workgroup memory, bytes. */
  readonly workgroupBytes: number;
  /** Whether the device multiplies four bytes at once (`dot4I8Packed`, `dot4U8Packed`); otherwise they are unpacked. */
  readonly packedDots: boolean;
  /** Whether whoever runs kernels binds the scratch that some variants ask for. */
  readonly scratch: boolean;
  /** Whether half floats are read as such (`enable f16;`); otherwise pairs of them are unpacked from words. */
  readonly halves: boolean;
  /** How invocations of a workgroup exchange registers; undefined where they do not. */
  readonly subgroup?: Subgroup;
}

/** Neighbouring invocations that exchange registers. */
export interface Subgroup {
  /** So many neighbours, a power of two, run together in every kernel. */
  readonly size: number;
  /** Whether a module says so in its first line: the standard asks for it, naga knows the functions without and refuses the line. */
  readonly declared: boolean;
}

/** The least that every WebGPU device has. */
export const PORTABLE: KernelTraits = { workgroupBytes: 16384, packedDots: false, scratch: false, halves: false };
