/**
 * An assembler for WebAssembly: typed expression trees in, bytes and readable text out.
 *
 * ```ts
 * const m = createModule();
 * m.memory("memory");
 * m.export(m.func("axpy", { n: "i32", x: "i32", y: "i32", a: "f32" }, (b, p) => {
 *   const a4 = b.let("a4", f32x4.splat(p.a));
 *   b.for("i", 0, p.n, 4, (i) => {
 *     const bytes = b.let("bytes", i32.shl(i, 2));
 *     const at = b.let("at", i32.add(p.y, bytes));
 *     const product = f32x4.mul(a4, v128.load(i32.add(p.x, bytes)));
 *     b.emit(v128.store(at, f32x4.add(v128.load(at), product)));
 *   });
 * }));
 * const compiled = new WebAssembly.Module(m.bytes());
 * console.log(m.text());
 * ```
 *
 * Instructions carry their WebAssembly names (`i32.lt_s`, `f32x4.mul`, `i16x8.extmul_low_i8x16_s`). Operands may be JavaScript
 * numbers. Every constructor checks operand types, at compile time where they are known and at run time always. The only
 * optimisations are constant folding of i32 index arithmetic and moving vector constants out of loops, because the engine does not
 * do the latter. Common expressions are not found: `b.let` what is used twice.
 *
 * @module
 */

export { AssemblyError } from "./assembler/expr.ts";
export type {
  Expr,
  Feature,
  Func,
  Instruction,
  Label,
  LaneShape,
  Local,
  Memory,
  Operand,
  Params,
  ResultType,
  Stmt,
  ValueType,
} from "./assembler/expr.ts";
export type { At } from "./assembler/family.ts";
export { type ByteProducts, probeByteProducts, probeFeatures, type WasmFeatures } from "./assembler/features.ts";
export { call, type FunctionBuilder, tee } from "./assembler/function.ts";
export { createModule, type MemoryLimits, type ModuleBuilder } from "./assembler/module.ts";
export { atomics, f32, f64, i32, i64, memory, select } from "./assembler/scalar.ts";
export { f32x4, i16x8, i32x4, i8x16, v128 } from "./assembler/simd.ts";
