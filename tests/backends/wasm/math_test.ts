/** Elementary functions: errors against double precision, special values, tails equal to bodies. */

import { assert, assertEquals } from "@std/assert";
import fc from "fast-check";
import { createModule, f32, f32x4, i32, v128 } from "../../../backends/wasm/assembler.ts";
import { createMath, type MathName } from "../../../backends/wasm/math.ts";

const NAMES: readonly MathName[] = ["exp", "log", "erf", "sigmoid"];
const SIZE = 1 << 16;

/** Kernels `exp`, … over `SIZE` floats at a time, by vectors and (`exp_scalar`, …) one by one. */
function kernels(relaxed: boolean) {
  const m = createModule();
  const math = createMath({ relaxed });
  m.memory("memory");
  for (const name of NAMES) {
    m.export(m.func(name, {}, (b) => {
      b.for("i", 0, 4 * SIZE, 16, (i) => b.emit(v128.store(i, math.f32x4[name](b, v128.load(i)), 4 * SIZE)));
    }));
    m.export(m.func(`${name}_scalar`, {}, (b) => {
      b.for("i", 0, 4 * SIZE, 4, (i) => b.emit(f32.store(i, math.f32[name](b, f32.load(i)), 4 * SIZE)));
    }));
  }
  const memory = new WebAssembly.Memory({ initial: SIZE * 8 / 65536 });
  const { exports } = new WebAssembly.Instance(new WebAssembly.Module(m.bytes()), { env: { memory } });
  const input = new Float32Array(memory.buffer, 0, SIZE);
  const output = new Float32Array(memory.buffer, 4 * SIZE, SIZE);
  return (name: string, values: ArrayLike<number>): Float32Array => {
    input.fill(0);
    input.set(values);
    (exports[name] as () => void)();
    return output.slice(0, values.length);
  };
}

/** erf in double precision: its series near 0, the continued fraction of erfc beyond. */
function erf(x: number): number {
  const a = Math.abs(x);
  if (a < 2.5) {
    let [sum, term] = [x, x];
    for (let k = 1; k < 60; k++) {
      term *= -x * x / k;
      sum += term / (2 * k + 1);
    }
    return sum * 2 / Math.sqrt(Math.PI);
  }
  let fraction = 0;
  for (let k = 60; k >= 1; k--) fraction = k / 2 / (a + fraction);
  return Math.sign(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + fraction));
}

const EXACT: Record<MathName, (x: number) => number> = {
  exp: Math.exp,
  log: Math.log,
  erf,
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
};

/** Largest absolute and relative error over `SIZE` points between `low` and `high`, evenly spaced. */
function errors(run: ReturnType<typeof kernels>, name: MathName, low: number, high: number) {
  const x = Float32Array.from({ length: SIZE }, (_, i) => low + (high - low) * (i / (SIZE - 1)));
  let [absolute, relative] = [0, 0];
  run(name, x).forEach((y, i) => {
    const exact = EXACT[name](x[i] ?? NaN);
    const error = Math.abs(y - exact);
    absolute = Math.max(absolute, error);
    if (exact !== 0) relative = Math.max(relative, error / Math.abs(exact));
  });
  return { absolute, relative };
}

for (const relaxed of [false, true]) {
  const how = relaxed ? "fused" : "separate";
  const run = kernels(relaxed);

  Deno.test(`math errors stay within what is documented (${how} multiply-add)`, () => {
    for (const [low, high] of [[-87.33, 88.72], [-1, 1], [-20, 0]] as const) {
      const { relative } = errors(run, "exp", low, high);
      assert(relative < 1.5e-7, `exp on [${low}, ${high}]: ${relative}`);
    }
    for (const [low, high] of [[0.25, 4], [0.9, 1.1], [1e-30, 1e30], [1e-41, 1e-37], [1, 1e6]] as const) {
      const { relative } = errors(run, "log", low, high);
      assert(relative < 1.5e-7, `log on [${low}, ${high}]: ${relative}`);
    }
    for (const [low, high] of [[-5, 5], [-0.01, 0.01], [2, 4]] as const) {
      const { absolute, relative } = errors(run, "erf", low, high);
      assert(absolute < 2e-7 && relative < 2e-7, `erf on [${low}, ${high}]: ${absolute}, ${relative}`);
    }
    for (const [low, high] of [[-200, 200], [-10, 10]] as const) {
      const { absolute } = errors(run, "sigmoid", low, high);
      assert(absolute < 1e-7, `sigmoid on [${low}, ${high}]: ${absolute}`);
    }
  });

  Deno.test(`math has the right values at the ends and outside (${how} multiply-add)`, () => {
    const x = [0, -0, Infinity, -Infinity, NaN, 3e38, -3e38, 100, -104];
    assertEquals([...run("exp", x)], [1, 1, Infinity, 0, NaN, Infinity, 0, Infinity, 0]);
    assertEquals([...run("erf", x)], [0, -0, 1, -1, NaN, 1, -1, 1, -1]);
    assertEquals([...run("sigmoid", x)].slice(0, 8), [0.5, 0.5, 1, 0, NaN, 1, 0, 1]);
    const [zero, minus, ...rest] = run("log", [0, -0, 1, Infinity, NaN, -1, -Infinity, -1e-45]);
    assertEquals([zero, minus, ...rest], [-Infinity, -Infinity, 0, Infinity, NaN, NaN, NaN, NaN]);
  });

  Deno.test(`a scalar has the bits of a vector's lane (${how} multiply-add)`, () => {
    const values = Float32Array.from({ length: SIZE }, (_, i) => Math.sin(i) * 2 ** (i % 40 - 20));
    for (const name of NAMES) {
      const bits = (kernel: string) => new Uint32Array(run(kernel, values).buffer);
      assertEquals(bits(`${name}_scalar`), bits(name));
    }
    fc.assert(
      fc.property(fc.float(), fc.constantFrom(...NAMES), (x, name) => {
        assertEquals(run(`${name}_scalar`, [x]), run(name, [x]));
      }),
      { numRuns: 50 },
    );
  });
}

Deno.test("constants of the functions leave the loop", () => {
  const m = createModule();
  m.memory("memory");
  m.func("run", { n: "i32" }, (b, { n }) => {
    b.for(
      "i",
      0,
      i32.shl(n, 2),
      16,
      (i) => b.emit(v128.store(i, createMath({ relaxed: true }).f32x4.exp(b, f32x4.neg(v128.load(i))))),
    );
  });
  const [before = "", loop = ""] = m.text().split("(loop");
  assert(before.includes("(local.set $f32x4.Infinity (v128.const f32x4 inf inf inf inf))"), before);
  assert(!loop.includes("v128.const"), loop);
});
