/** @file Number formats of checkpoints, widened to f32. Bytes are little-endian, as is every machine Deno runs on. */
import { quote, UserError } from "../../ir/errors.ts";

/** True for the formats `toFloats` reads. */
export const isFloatFormat = (dtype: string): boolean => ["F32", "F16", "BF16", "F64"].includes(dtype);

/**
 * The values of a tensor as f32. F16 and BF16 convert exactly; F64 is rounded to nearest.
 *
 * @param bytes the tensor's bytes, at an offset of their buffer which is a multiple of the value's size
 * @param dtype the format, as safetensors spells it
 * @param name the tensor's name, for messages
 * @param file what messages call its file
 * @throws {UserError} if the format is not one of F32, F16, BF16, F64
 */
export function toFloats(
  bytes: Uint8Array<ArrayBuffer>,
  dtype: string,
  name: string,
  file: string,
): Float32Array<ArrayBuffer> {
  const { buffer, byteOffset, length } = bytes;
  switch (dtype) {
    case "F32":
      return new Float32Array(buffer, byteOffset, length / 4);
    case "F64":
      return Float32Array.from(new Float64Array(buffer, byteOffset, length / 8));
    case "F16":
      return halfToFloat(new Uint16Array(buffer, byteOffset, length / 2));
    case "BF16":
      return bfloatToFloat(new Uint16Array(buffer, byteOffset, length / 2));
    default:
      throw notFloats(dtype, name, file);
  }
}

/** The error that a tensor holds integers, or floats of another format. */
export function notFloats(dtype: string, name: string, file: string): UserError {
  return new UserError({
    what: `Expected tensor ${quote(name)} to be F32, F16, BF16 or F64 but found ${dtype}`,
    where: quote(file),
    mend: "use a checkpoint that is not quantized",
  });
}

/** IEEE half precision, given as bits: 1 sign, 5 exponent, 10 fraction. */
export function halfToFloat(halves: Uint16Array): Float32Array<ArrayBuffer> {
  const floats = new Float32Array(halves.length);
  const bits = new Uint32Array(floats.buffer);
  for (let i = 0; i < halves.length; i++) {
    const half = halves[i] ?? 0;
    const sign = (half & 0x8000) << 16;
    const exponent = (half >> 10) & 31;
    const fraction = half & 0x3ff;
    if (exponent === 0) floats[i] = (sign < 0 ? -1 : 1) * fraction * 2 ** -24;
    else bits[i] = sign | ((exponent === 31 ? 255 : exponent + 112) << 23) | (fraction << 13);
  }
  return floats;
}

/** bfloat16, given as bits: the upper half of an f32. */
export function bfloatToFloat(halves: Uint16Array): Float32Array<ArrayBuffer> {
  const bits = new Uint32Array(halves.length);
  for (let i = 0; i < halves.length; i++) bits[i] = (halves[i] ?? 0) << 16;
  return new Float32Array(bits.buffer);
}
