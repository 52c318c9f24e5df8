/**
 * Orthogonal Hadamard transforms of any usable length: which lengths there are, the +-1 matrices behind them, and the
 * transform itself as the plain reference that every backend is tested against.
 *
 * @module
 */
export { type HadamardFactor, hadamardFactor, hadamardMatrix } from "./hadamard/orders.ts";
export { hadamardTransform, type HadamardTransformOptions } from "./hadamard/transform.ts";
