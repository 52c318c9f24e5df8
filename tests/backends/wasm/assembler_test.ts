/** The assembler: every instruction validates, results are right, text and errors read well. */

import { assertEquals, assertThrows } from "@std/assert";
import fc from "fast-check";
import {
  AssemblyError,
  atomics,
  call,
  createModule,
  type Expr,
  f32,
  f32x4,
  f64,
  i16x8,
  i32,
  i32x4,
  i64,
  i8x16,
  type Instruction,
  memory,
  type ModuleBuilder,
  type Operand,
  probeFeatures,
  select,
  tee,
  v128,
  type ValueType,
} from "../../../backends/wasm/assembler.ts";

const families = { i32, i64, f32, f64, atomics, v128, i8x16, i16x8, i32x4, f32x4 };

/** Compiles a module and returns its exports, with a fresh memory of one page. */
function instantiate(m: ModuleBuilder) {
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1 });
  const instance = new WebAssembly.Instance(new WebAssembly.Module(m.bytes()), { env: { memory } });
  const exports = instance.exports as Record<string, (...args: (number | bigint)[]) => number>;
  return { memory, bytes: new Uint8Array(memory.buffer), exports };
}

/** Runs `vector(a, b)` on memory: operands at 0 and 16, result at 32. */
function runVector(build: (a: Expr<"v128">, b: Expr<"v128">) => Expr<"v128">) {
  const m = createModule();
  m.memory("memory");
  m.export(m.func("run", {}, (b) => b.emit(v128.store(32, build(v128.load(0), v128.load(16))))));
  const { memory, exports } = instantiate(m);
  return (a: ArrayBufferView, b: ArrayBufferView): ArrayBuffer => {
    for (const [view, at] of [[a, 0], [b, 16]] as const) {
      new Uint8Array(memory.buffer).set(new Uint8Array(view.buffer, view.byteOffset, 16), at);
    }
    exports["run"]?.();
    return new Uint8Array(memory.buffer).slice(32, 48).buffer;
  };
}

/** The operands a constructor takes for an instruction, which may have lanes and offsets among them. */
function argumentsFor(instruction: Instruction, operands: readonly Expr[]): unknown[] {
  const { name } = instruction;
  if (/load\d+_lane|store\d+_lane/.test(name)) return [...operands, 1, { offset: 300, align: 1 }];
  if (name.includes("extract_lane")) return [...operands, 1];
  if (name.includes("replace_lane")) return [operands[0], 3, operands[1]];
  if (name.includes("shuffle")) return [...operands, [31, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]];
  if (instruction.width > 0 && instruction.feature !== "threads") return [...operands, 16];
  return [...operands];
}

Deno.test("the engine accepts every instruction of the tables", () => {
  const m = createModule();
  m.memory("memory", { shared: true, maximum: 1 });
  const seen = new Set<string>();
  for (const [prefix, members] of Object.entries(families)) {
    for (const [key, build] of Object.entries(members)) {
      if (!("instruction" in build)) continue; // const
      const { instruction }: { instruction: Instruction } = build;
      if (prefix !== "atomics") assertEquals(instruction.name, `${prefix}.${key}`);
      if (seen.has(instruction.name)) throw new Error(`"${instruction.name}" is defined twice`);
      seen.add(instruction.name);
      const params = Object.fromEntries(instruction.operands.map((type, i) => [`p${i}`, type]));
      const make = build as (...args: unknown[]) => Expr;
      m.func(instruction.name, params, (b, p) => {
        const expr = make(...argumentsFor(instruction, Object.values(p)));
        if (expr.type === "void") b.emit(expr as Expr<"void">);
        else b.drop(expr as Expr<ValueType>);
      });
    }
  }
  m.func("constants", {}, (b) => {
    for (const constant of [i32.const(-1), i64.const(-1n), f32.const(NaN), f64.const(0.1)]) b.drop(constant);
    for (const constant of [i8x16.const(-1), i16x8.const(1, 2), i32x4.const(1, 2, 3, 4), f32x4.const(0.5)]) {
      b.drop(constant);
    }
    b.emit(memory.copy(0, 1, 2), memory.fill(0, 1, 2));
    b.drop(select(1, f32x4.const(1), f32x4.const(2)));
  });
  new WebAssembly.Module(m.bytes());
  assertEquals(seen.size > 300, true);
  assertEquals([...m.features()].sort(), ["relaxed-simd", "threads"]);
});

Deno.test("probeFeatures() finds what this engine has", () => {
  assertEquals(probeFeatures(), { simd: true, "relaxed-simd": true, threads: true });
});

Deno.test("i32 arithmetic equals JavaScript's 32-bit arithmetic", () => {
  const cases: [keyof typeof i32, (a: number, b: number) => number][] = [
    ["add", (a, b) => (a + b) | 0],
    ["sub", (a, b) => (a - b) | 0],
    ["mul", Math.imul],
    ["and", (a, b) => a & b],
    ["or", (a, b) => a | b],
    ["xor", (a, b) => a ^ b],
    ["shl", (a, b) => a << b],
    ["shr_s", (a, b) => a >> b],
    ["shr_u", (a, b) => (a >>> b) | 0],
    ["rotl", (a, b) => (a << (b & 31)) | (b & 31 ? a >>> (32 - (b & 31)) : 0)],
    ["lt_s", (a, b) => Number(a < b)],
    ["lt_u", (a, b) => Number((a >>> 0) < (b >>> 0))],
    ["gt_s", (a, b) => Number(a > b)],
    ["gt_u", (a, b) => Number((a >>> 0) > (b >>> 0))],
    ["le_s", (a, b) => Number(a <= b)],
    ["ge_u", (a, b) => Number((a >>> 0) >= (b >>> 0))],
    ["eq", (a, b) => Number(a === b)],
    ["div_s", (a, b) => b === 0 || b === -1 ? 0 : (a / b) | 0],
    ["rem_u", (a, b) => b === 0 ? 0 : ((a >>> 0) % (b >>> 0)) | 0],
  ];
  const m = createModule();
  for (const [name] of cases) {
    const build = i32[name] as (a: Operand<"i32">, b: Operand<"i32">) => Expr<"i32">;
    const guarded = name === "div_s" || name === "rem_u";
    m.export(m.func(name, { a: "i32", b: "i32" }, "i32", (b, p) => {
      if (guarded) b.if(i32.eqz(p.b), () => b.return(i32.const(0)));
      if (name === "div_s") b.if(i32.eq(p.b, -1), () => b.return(i32.const(0)));
      return build(p.a, p.b);
    }));
  }
  const { exports } = instantiate(m);
  const int = fc.oneof(fc.integer(), fc.constantFrom(0, 1, -1, 31, 32, 2 ** 31 - 1, -(2 ** 31)));
  fc.assert(fc.property(int, int, (a, b) => {
    for (const [name, expected] of cases) assertEquals([name, exports[name]?.(a, b)], [name, expected(a, b)]);
  }));
});

Deno.test("constant folding keeps the value of index expressions", () => {
  const int = fc.oneof(fc.integer(), fc.constantFrom(0, 1, -1));
  type Tree = { value: number; expr: Expr<"i32"> };
  const tree: fc.Arbitrary<Tree> = fc.letrec<{ tree: Tree }>((tie) => ({
    tree: fc.oneof(
      { maxDepth: 5 },
      int.map((value) => ({ value, expr: i32.const(value) })),
      fc.tuple(fc.constantFrom("add", "sub", "mul", "shl"), tie("tree"), tie("tree")).map(([name, a, b]) => {
        const evaluate = {
          add: () => (a.value + b.value) | 0,
          sub: () => (a.value - b.value) | 0,
          mul: () => Math.imul(a.value, b.value),
          shl: () => a.value << b.value,
        };
        return { value: evaluate[name](), expr: i32[name](a.expr, b.expr) };
      }),
    ),
  })).tree;
  fc.assert(fc.property(tree, ({ value, expr }) => {
    assertEquals(expr.op.name, "i32.const");
    const m = createModule();
    m.export(m.func("run", {}, "i32", () => expr));
    assertEquals(instantiate(m).exports["run"]?.(), value);
  }));
  const m = createModule();
  m.func("run", { x: "i32" }, "i32", (_, { x }) => i32.add(i32.add(i32.mul(x, 1), 4), i32.mul(2, 6)));
  assertEquals(m.text().includes("(return (i32.add (local.get $x) (i32.const 16)))"), true, m.text());
});

Deno.test("f32x4 arithmetic rounds every lane as Math.fround does", () => {
  const cases: [string, typeof f32x4.add, (a: number, b: number) => number][] = [
    ["add", f32x4.add, (a, b) => a + b],
    ["sub", f32x4.sub, (a, b) => a - b],
    ["mul", f32x4.mul, (a, b) => a * b],
    ["div", f32x4.div, (a, b) => a / b],
    ["min", f32x4.min, Math.min],
    ["max", f32x4.max, Math.max],
    ["pmin", f32x4.pmin, (a, b) => b < a ? b : a],
    ["pmax", f32x4.pmax, (a, b) => a < b ? b : a],
  ];
  const lanes = fc.float32Array({ minLength: 4, maxLength: 4 });
  for (const [name, build, expected] of cases) {
    const run = runVector(build);
    fc.assert(fc.property(lanes, lanes, (a, b) => {
      const wanted = a.map((x, i) => expected(x, b[i] ?? 0));
      assertEquals([name, new Float32Array(run(a, b))], [name, wanted]);
    }));
  }
  const unary: [string, typeof f32x4.abs, (x: number) => number][] = [
    ["sqrt", f32x4.sqrt, Math.sqrt],
    ["abs", f32x4.abs, Math.abs],
    ["neg", f32x4.neg, (x) => -x],
    ["floor", f32x4.floor, Math.floor],
    ["ceil", f32x4.ceil, Math.ceil],
    ["trunc", f32x4.trunc, Math.trunc],
  ];
  for (const [name, build, expected] of unary) {
    const run = runVector((a) => build(a));
    fc.assert(fc.property(lanes, (a) => assertEquals([name, new Float32Array(run(a, a))], [name, a.map(expected)])));
  }
});

Deno.test("integer vector arithmetic wraps, saturates and widens as specified", () => {
  const bytes = fc.int8Array({ minLength: 16, maxLength: 16 });
  const check = (
    name: string,
    build: (a: Expr<"v128">, b: Expr<"v128">) => Expr<"v128">,
    expected: (a: Int8Array, b: Int8Array) => ArrayBufferView,
  ) => {
    const run = runVector(build);
    fc.assert(fc.property(bytes, bytes, (a, b) => {
      assertEquals([name, new Uint8Array(run(a, b))], [name, new Uint8Array(expected(a, b).buffer)]);
    }));
  };
  const at = (x: ArrayLike<number>, i: number) => x[i] ?? NaN;
  const clamp = (x: number, low: number, high: number) => Math.max(low, Math.min(high, x));
  const words = (x: Int8Array) => new Int16Array(x.buffer);
  check("i8x16.add", i8x16.add, (a, b) => a.map((x, i) => x + at(b, i)));
  check("i8x16.add_sat_s", i8x16.add_sat_s, (a, b) => a.map((x, i) => clamp(x + at(b, i), -128, 127)));
  check("i8x16.shr_u", (a) => i8x16.shr_u(a, 3), (a) => new Uint8Array(a.buffer).map((x) => x >> 3));
  check("i8x16.swizzle", i8x16.swizzle, (a, b) => a.map((_, i) => a[at(b, i) & 0xff] ?? 0));
  check(
    "i8x16.shuffle",
    (a, b) => i8x16.shuffle(a, b, [0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 31]),
    (a, b) => Int8Array.of(...[0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 31].map((i) => at([...a, ...b], i))),
  );
  check("i16x8.mul", i16x8.mul, (a, b) => words(a).map((x, i) => Math.imul(x, at(words(b), i))));
  check(
    "i16x8.extmul_high_i8x16_s",
    i16x8.extmul_high_i8x16_s,
    (a, b) => Int16Array.from({ length: 8 }, (_, i) => at(a, i + 8) * at(b, i + 8)),
  );
  check(
    "i16x8.extend_low_i8x16_u",
    (a) => i16x8.extend_low_i8x16_u(a),
    (a) => Int16Array.from({ length: 8 }, (_, i) => at(a, i) & 0xff),
  );
  check(
    "i16x8.extadd_pairwise_i8x16_s",
    (a) => i16x8.extadd_pairwise_i8x16_s(a),
    (a) => Int16Array.from({ length: 8 }, (_, i) => at(a, 2 * i) + at(a, 2 * i + 1)),
  );
  check(
    "i8x16.narrow_i16x8_u",
    i8x16.narrow_i16x8_u,
    (a, b) => Uint8Array.from([...words(a), ...words(b)].map((x) => clamp(x, 0, 255))),
  );
  check(
    "i32x4.dot_i16x8_s",
    i32x4.dot_i16x8_s,
    (a, b) =>
      Int32Array.from(
        { length: 4 },
        (_, i) => at(words(a), 2 * i) * at(words(b), 2 * i) + at(words(a), 2 * i + 1) * at(words(b), 2 * i + 1),
      ),
  );
  check(
    "v128.bitselect",
    (a, b) => v128.bitselect(a, b, i8x16.const(0x0f)),
    (a, b) => a.map((x, i) => (x & 0x0f) | (at(b, i) & 0xf0)),
  );
  check("v128.andnot", v128.andnot, (a, b) => a.map((x, i) => x & ~at(b, i)));
  check(
    "i32x4.relaxed_dot_i8x16_i7x16_add_s",
    (a, b) => i32x4.relaxed_dot_i8x16_i7x16_add_s(a, v128.and(b, i8x16.const(127)), i32x4.const(-5)),
    (a, b) =>
      Int32Array.from(
        { length: 4 },
        (_, i) => [0, 1, 2, 3].reduce((sum, j) => sum + at(a, 4 * i + j) * (at(b, 4 * i + j) & 127), -5),
      ),
  );
});

Deno.test("conversions saturate, and reinterpretations keep bits", () => {
  const m = createModule();
  m.export(m.func("signed", { x: "f32" }, "i32", (_, { x }) => i32.trunc_sat_f32_s(x)));
  m.export(
    m.func("lane", { x: "f32" }, "i32", (_, { x }) => i32x4.extract_lane(i32x4.trunc_sat_f32x4_s(f32x4.splat(x)), 2)),
  );
  m.export(m.func("bits", { x: "f32" }, "i32", (_, { x }) => i32.reinterpret_f32(x)));
  m.export(m.func("rounded", { x: "f32" }, "f32", (_, { x }) => f32x4.extract_lane(f32x4.nearest(f32x4.splat(x)), 0)));
  m.export(
    m.func("mask", { x: "f32" }, "i32", (_, { x }) => i32x4.bitmask(f32x4.lt(f32x4.const(1, 2, 3, 4), f32x4.splat(x)))),
  );
  const { exports } = instantiate(m);
  for (const [x, y] of [[1.9, 1], [-1.9, -1], [3e9, 2 ** 31 - 1], [-3e9, -(2 ** 31)], [NaN, 0]] as const) {
    assertEquals(exports["signed"]?.(x), y);
    assertEquals(exports["lane"]?.(x), y);
  }
  assertEquals(exports["bits"]?.(1), 0x3f800000);
  assertEquals([0.5, 1.5, 2.5, -0.5].map((x) => exports["rounded"]?.(x)), [0, 2, 2, -0]);
  assertEquals(exports["mask"]?.(2.5), 3);
});

Deno.test("loads and stores reach the bytes they name", () => {
  const m = createModule();
  m.memory("memory");
  m.export(m.func("run", { at: "i32" }, "i32", (b, { at }) => {
    b.emit(
      v128.store8_lane(at, v128.load(at), 5, 300),
      v128.store32_lane(at, v128.load(at), 3, { offset: 304, align: 1 }),
    );
    b.emit(i32.store16(at, i32.load8_s(at, 1), 310), i32.store(at, i32.load16_u(at, 2), 312));
    b.emit(v128.store(at, v128.load16_lane(at, i8x16.const(7), 4, 2), 320), v128.store(at, v128.load32_splat(at), 336));
    b.emit(v128.store(at, v128.load8x8_s(at), 352));
    return i32.load8_u(at, 1);
  }));
  const { bytes, exports } = instantiate(m);
  for (let i = 0; i < 16; i++) bytes[64 + i] = 0xf0 + i;
  assertEquals(exports["run"]?.(64), 0xf1);
  const read = (from: number, count: number) => [...bytes.subarray(64 + from, 64 + from + count)];
  assertEquals(read(300, 1), [0xf5]);
  assertEquals(read(304, 4), [0xfc, 0xfd, 0xfe, 0xff]);
  assertEquals(read(310, 6), [0xf1, 0xff, 0xf2, 0xf3, 0, 0]);
  assertEquals(read(320, 16), [7, 7, 7, 7, 7, 7, 7, 7, 0xf2, 0xf3, 7, 7, 7, 7, 7, 7]);
  assertEquals(read(336, 8), [0xf0, 0xf1, 0xf2, 0xf3, 0xf0, 0xf1, 0xf2, 0xf3]);
  assertEquals(read(352, 4), [0xf0, 0xff, 0xf1, 0xff]);
});

Deno.test("loops, blocks and branches run as often as they say", () => {
  const m = createModule();
  m.export(m.func("count", { from: "i32", to: "i32", step: "i32" }, "i32", (b, p) => {
    const count = b.local("count", "i32");
    b.for("i", p.from, i32.add(p.to, 0), p.step, () => b.set(count, i32.add(count, 1)));
    return count;
  }));
  m.export(m.func("constant", {}, "i32", (b) => {
    const sum = b.local("sum", "i32");
    b.for("i", 0, 10, 3, (i) => b.set(sum, i32.add(sum, i)));
    b.for("i", 5, 5, 1, () => b.trap());
    return sum;
  }));
  m.export(m.func("collatz", { n: "i32" }, "i32", (b, { n }) => {
    const steps = b.local("steps", "i32");
    b.block((done) =>
      b.loop((again) => {
        b.brIf(done, i32.eq(n, 1));
        b.if(i32.and(n, 1), () => b.set(n, i32.add(i32.mul(n, 3), 1)), () => b.set(n, i32.shr_u(n, 1)));
        b.set(steps, i32.add(steps, 1));
        b.br(again);
      })
    );
    return steps;
  }));
  m.export(m.func("halvings", { n: "i32" }, "i32", (b, { n }) => {
    const count = b.local("count", "i32");
    b.while(i32.gt_u(tee(n, i32.shr_u(n, 1)), 0), () => b.set(count, i32.add(count, 1)));
    b.return(count);
  }));
  const { exports } = instantiate(m);
  const small = fc.integer({ min: -50, max: 50 });
  fc.assert(fc.property(small, small, fc.integer({ min: 1, max: 9 }), (from, to, step) => {
    assertEquals(exports["count"]?.(from, to, step), Math.max(0, Math.ceil((to - from) / step)));
  }));
  assertEquals(exports["constant"]?.(), 18);
  assertEquals(exports["collatz"]?.(27), 111);
  assertEquals(exports["halvings"]?.(1024), 10);
});

Deno.test("vector constants in loops become variables, one for each value", () => {
  const m = createModule();
  m.memory("memory");
  m.export(m.func("run", {}, (b) => {
    b.emit(v128.store(0, f32x4.const(0.5)));
    b.for("i", 16, 64, 16, (i) => {
      b.if(i32.eq(i, 32), () => b.emit(v128.store(i, f32x4.const(-0))), () => b.emit(v128.store(i, f32x4.const(0.5))));
      b.emit(
        v128.store(i, i8x16.const(1, 2), 64),
        v128.store(i, f32x4.const(0), 128),
        v128.store(i, f32x4.const(0.5), 192),
      );
    });
  }));
  const [before = "", loop = ""] = m.text().split("(loop");
  assertEquals(loop.includes("v128.const"), false, loop);
  const declared = [...before.matchAll(/local\.set \$(\S+) \(v128/g)].map(([, name]) => name);
  assertEquals(declared, ["f32x4.-0", "f32x4.0.5", "i8x16.table", "f32x4.0"]);
  const { exports, memory } = instantiate(m);
  exports["run"]?.();
  const floats = new Float32Array(memory.buffer);
  assertEquals([0, 4, 8, 12].map((i) => floats[i]), [0.5, 0.5, -0, 0.5]);
  assertEquals(Object.is(floats[8], -0) && Object.is(floats[40], 0) && floats[60] === 0.5, true);
});

Deno.test("functions call each other, and helpers are made once", () => {
  const m = createModule();
  const square = () => m.helper("square", () => m.func("square", { x: "f32" }, "f32", (_, { x }) => f32.mul(x, x)));
  assertEquals(square(), square());
  m.export(
    m.func(
      "hypot",
      { a: "f32", b: "f32" },
      "f32",
      (_, p) => f32.sqrt(f32.add(call(square(), { x: p.a }), call(square(), { x: p.b }))),
    ),
  );
  assertEquals(instantiate(m).exports["hypot"]?.(3, 4), 5);
});

Deno.test("a module can use a second memory", () => {
  const m = createModule();
  m.memory("memory");
  const weights = m.memory("weights");
  m.export(m.func("run", {}, (b) => {
    b.emit(i32.store(8, i32.load(4, { offset: 4, memory: weights })));
    b.emit(memory.copy(16, 8, 4, { to: weights }));
  }));
  const make = () => new WebAssembly.Memory({ initial: 1, maximum: 1 });
  const [first, second] = [make(), make()];
  new Int32Array(second.buffer)[2] = 42;
  const instance = new WebAssembly.Instance(new WebAssembly.Module(m.bytes()), {
    env: { memory: first, weights: second },
  });
  (instance.exports["run"] as () => void)();
  assertEquals([new Int32Array(first.buffer)[2], new Int32Array(second.buffer)[4]], [42, 42]);
});

Deno.test("atomics change shared memory and return the old value", () => {
  const m = createModule();
  m.memory("memory", { shared: true, maximum: 1 });
  m.export(m.func("run", {}, "i32", (b) => {
    b.emit(atomics.store(8, 5));
    b.drop(atomics.add(8, 2));
    b.drop(atomics.compareExchange(8, 7, 9));
    b.drop(atomics.notify(8, 1));
    b.drop(atomics.wait32(8, 1, -1n));
    return atomics.exchange(8, 1);
  }));
  const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
  const instance = new WebAssembly.Instance(new WebAssembly.Module(m.bytes()), { env: { memory } });
  assertEquals((instance.exports["run"] as () => number)(), 9);
});

Deno.test("text() prints a module to read", () => {
  const m = createModule({ comment: "y += a * x over n floats, n a multiple of 4" });
  m.memory("memory", { minimum: 1, maximum: 16, shared: true });
  m.export(m.func("axpy", { n: "i32", x: "i32", y: "i32", a: "f32" }, (b, p) => {
    const a4 = b.let("a4", f32x4.splat(p.a));
    b.for("i", 0, p.n, 4, (i) => {
      const bytes = b.let("bytes", i32.shl(i, 2));
      const at = b.let("at", i32.add(p.y, bytes));
      b.comment("one vector");
      const product = f32x4.mul(a4, v128.load(i32.add(p.x, bytes), 16));
      b.emit(v128.store(at, f32x4.add(f32x4.mul(f32x4.const(0.1), v128.load(at, { align: 4 })), product)));
    });
  }));
  assertEquals(
    m.text(),
    `;; y += a * x over n floats, n a multiple of 4
(module
  (import "env" "memory" (memory $memory 1 16 shared))
  (func $axpy (export "axpy") (param $n i32) (param $x i32) (param $y i32) (param $a f32)
    (local $a4 v128) (local $i i32) (local $bytes i32) (local $at i32) (local $f32x4.0.1 v128)
    (local.set $f32x4.0.1 (v128.const f32x4 0.1 0.1 0.1 0.1))
    (local.set $a4 (f32x4.splat (local.get $a)))
    (local.set $i (i32.const 0))
    (if $if0
      (i32.lt_s (local.get $i) (local.get $n))
      (then
        (loop $loop1
          (local.set $bytes (i32.shl (local.get $i) (i32.const 2)))
          (local.set $at (i32.add (local.get $y) (local.get $bytes)))
          ;; one vector
          (v128.store
            (local.get $at)
            (f32x4.add
              (f32x4.mul (local.get $f32x4.0.1) (v128.load align=4 (local.get $at)))
              (f32x4.mul (local.get $a4) (v128.load offset=16 (i32.add (local.get $x) (local.get $bytes))))))
          (local.set $i (i32.add (local.get $i) (i32.const 4)))
          (br_if $loop1 (i32.lt_s (local.get $i) (local.get $n))))))))
`,
  );
});

Deno.test("errors name the instruction, the operand and the mend", () => {
  const untyped = f32.const(1) as Expr<ValueType> as Expr<"i32">;
  assertThrows(() => i32.mul(2, untyped), AssemblyError, 'Cannot build "i32.mul": expected operand 1 of type i32');
  assertThrows(() => i32.const(0.5), AssemblyError, "expected an integer from -2^31 to 2^32 - 1 but found 0.5");
  assertThrows(() => i32.load(0, { align: 8 }), AssemblyError, "expected an alignment that is a power of two up to 4");
  assertThrows(() => f32x4.extract_lane(f32x4.const(1), 4), AssemblyError, "expected a lane from 0 to 3 but found 4");
  assertThrows(() => f32x4.const(1, 2, 3), AssemblyError, "a divisor of 4");
  const m = createModule();
  assertThrows(
    () => m.func("f", {}, (b) => b.emit(untyped as Expr as Expr<"void">)),
    AssemblyError,
    'Cannot emit "f32.const" in "f": expected a statement but found a value of type f32; use drop()',
  );
  assertThrows(() => m.func("f", {}, (b) => b.for("i", 0, 4, 0, () => {})), AssemblyError, "expected a positive step");
  const other = m.func("g", { x: "i32" }, "i32", (_, { x }) => x);
  const stolen = other.body[0]?.args[0] as Expr<"i32">;
  m.func("h", {}, "i32", () => stolen);
  assertThrows(() => m.bytes(), AssemblyError, 'Cannot use "x" in "h": expected one of its own locals');
});

Deno.test("the type checker rejects operands of another type", () => {
  // @ts-expect-error an f32 is no i32
  assertThrows(() => i32.add(1, f32.const(1)), AssemblyError);
  // @ts-expect-error a number is no vector
  assertThrows(() => f32x4.add(f32x4.const(1), 1), AssemblyError);
});
