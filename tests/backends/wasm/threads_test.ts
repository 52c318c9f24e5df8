/** The pool: same results on any number of threads, order of steps, failures, endings. */

import { assert, assertEquals, assertRejects, assertThrows } from "@std/assert";
import { createModule, i32, memory as bulk } from "../../../backends/wasm/assembler.ts";
import { createPool, KernelError, type Pool, type Step, type WorkerKind } from "../../../backends/wasm/threads.ts";

/** Kernels over i32 words; a chunk is one word. */
function module(shared: boolean): Uint8Array<ArrayBuffer> {
  const m = createModule();
  m.memory("memory", { shared });
  const range = { from: "i32", to: "i32" } as const;
  // y[c] = a · x[c] + c
  m.export(m.func("affine", { x: "i32", y: "i32", a: "i32", ...range }, (b, p) => {
    b.for("c", p.from, p.to, 1, (c) => {
      const word = b.let("word", i32.shl(c, 2));
      b.emit(i32.store(i32.add(p.y, word), i32.add(i32.mul(p.a, i32.load(i32.add(p.x, word))), c)));
    });
  }));
  // y[0] = Σ x[0 … n)
  m.export(m.func("sum", { x: "i32", y: "i32", n: "i32", ...range }, (b, p) => {
    const sum = b.local("sum", "i32");
    b.for("i", 0, i32.shl(p.n, 2), 4, (i) => b.set(sum, i32.add(sum, i32.load(i32.add(p.x, i)))));
    b.emit(i32.store(p.y, sum));
  }));
  // y[c] = x[0]
  m.export(m.func("spread", { x: "i32", y: "i32", ...range }, (b, p) => {
    b.for("c", p.from, p.to, 1, (c) => b.emit(i32.store(i32.add(p.y, i32.shl(c, 2)), i32.load(p.x))));
  }));
  // Traps where chunk `bad` is in the range.
  m.export(m.func("trap", { bad: "i32", ...range }, (b, p) => {
    b.if(i32.and(i32.le_s(p.from, p.bad), i32.lt_s(p.bad, p.to)), () => b.trap());
  }));
  return m.bytes();
}

const PAGES = 4;
const WORDS = 1000;
const [X, Y, Z, S] = [0, 4096, 8192, 12288];

function makePool(threads: number, options: { participate?: boolean; workers?: WorkerKind } = {}) {
  const shared = threads > 1 || options.participate === false;
  const memory = new WebAssembly.Memory({ initial: PAGES, maximum: 16, shared });
  const pool = createPool({ threads, memory, ...options });
  const kernel = pool.load(module(shared), { name: "words" });
  return { pool, kernel, memory, words: new Int32Array(memory.buffer) };
}

/** Steps whose result depends on every barrier: all words, one word, one word again, all words. */
function chain(kernel: Step["kernel"]): Step[] {
  return [
    { kernel, export: "affine", args: [X, Y, { slot: 0 }], grid: WORDS },
    { kernel, export: "sum", args: [Y, S, WORDS], grid: 1 },
    { kernel, export: "affine", args: [S, S + 4, { slot: 1 }], grid: 1 },
    { kernel, export: "spread", args: [S + 4, Z], grid: WORDS },
    { kernel, export: "affine", args: [Z, X, 1], grid: WORDS },
  ];
}

function chainInScript(words: Int32Array, [first, second]: readonly [number, number]): void {
  const x = words.subarray(0, WORDS);
  const sum = x.reduce((total, value, c) => (total + Math.imul(first, value) + c) | 0, 0);
  x.forEach((_, c) => x[c] = (Math.imul(second, sum) + c) | 0);
}

Deno.test("a program gives the same words on one, two and three threads of either kind", () => {
  const expected = Int32Array.from({ length: WORDS }, (_, i) => i * 7919);
  for (let run = 0; run < 100; run++) chainInScript(expected, [run, 3 - run]);
  for (const [threads, workers] of [[1, "web"], [2, "web"], [2, "node"], [3, "node"]] as const) {
    const { pool, kernel, words } = makePool(threads, { workers });
    using _ = pool;
    const program = pool.program(chain(kernel));
    for (let i = 0; i < WORDS; i++) words[i] = i * 7919;
    for (let run = 0; run < 100; run++) {
      pool.setSlots(program, [run, 3 - run]);
      pool.run(program);
    }
    assertEquals(words.subarray(0, WORDS), expected);
  }
});

Deno.test("steps without a barrier do not let a later step overtake an earlier one", () => {
  const { pool, kernel, words } = makePool(2);
  using _ = pool;
  const program = pool.program([
    { kernel, export: "affine", args: [X, Y, 1], grid: WORDS, barrier: false },
    { kernel, export: "spread", args: [X, S + 4], grid: 1 }, // independent of the first
    { kernel, export: "sum", args: [Y, S, WORDS], grid: 1 }, // reads what both threads wrote in the first
  ]);
  for (let run = 1; run <= 200; run++) {
    words.fill(run, 0, WORDS);
    pool.run(program);
    assertEquals(words[S / 4], run * WORDS + WORDS * (WORDS - 1) / 2);
  }
});

Deno.test("one thread needs neither workers nor a shared memory", () => {
  const { pool, kernel, memory, words } = makePool(1);
  using _ = pool;
  assert(memory.buffer instanceof ArrayBuffer);
  words[0] = 5;
  pool.run(pool.program([{ kernel, export: "spread", args: [X, Y], grid: 3 }]));
  assertEquals([...words.subarray(Y / 4, Y / 4 + 4)], [5, 5, 5, 0]);
});

Deno.test("runAsync() runs on workers alone when the caller does not participate", async () => {
  for (const workers of ["web", "node"] as const) {
    const { pool, kernel, words } = makePool(2, { participate: false, workers });
    using _ = pool;
    const program = pool.program(chain(kernel));
    const expected = words.slice(0, WORDS);
    for (let run = 0; run < 20; run++) {
      pool.setSlots(program, [run, run]);
      await pool.runAsync(program);
      chainInScript(expected, [run, run]);
    }
    assertEquals(words.subarray(0, WORDS), expected);
    assertThrows(() => pool.run(program), Error, 'does not participate; use "runAsync"');
    const first = pool.runAsync(program);
    await assertRejects(() => pool.runAsync(program), Error, "expected an idle pool but it is running");
    await first;
    const bad = pool.program([{ kernel, export: "trap", args: [0], grid: 2 }]);
    await assertRejects(() => pool.runAsync(bad), KernelError, 'Kernel "words" failed in "trap"');
  }
});

Deno.test("a trap on any thread is an error that names kernel and step, and the pool goes on", () => {
  const { pool, kernel, words } = makePool(2);
  using _ = pool;
  const good = pool.program(chain(kernel));
  for (const [bad, thread] of [[0, 0], [9, 1]] as const) {
    const program = pool.program([
      { kernel, export: "spread", args: [X, Y], grid: 10 },
      { kernel, export: "trap", args: [bad], grid: 10 },
      { kernel, export: "spread", args: [X, Z], grid: 10 },
    ]);
    words[0] = 1;
    words[Z / 4] = 0;
    const error = assertThrows(() => pool.run(program), KernelError);
    assertEquals(
      error.message,
      `Kernel "words" failed in "trap", step 1 of program ${program.id}, thread ${thread}: unreachable`,
    );
    assertEquals([words[Y / 4], words[Z / 4]], [1, 0]);
    pool.run(good);
  }
});

Deno.test("kernels can be loaded, dropped and given further memories between runs", () => {
  const m = createModule();
  m.memory("memory", { shared: true });
  const weights = m.memory("weights", { shared: true });
  m.export(m.func("fetch", { to: "i32", from: "i32", end: "i32" }, (b, p) => {
    b.emit(bulk.copy(p.to, i32.shl(p.from, 2), 4, { from: weights }));
  }));
  const compiled = new WebAssembly.Module(m.bytes());
  const { pool, words } = makePool(2);
  using _ = pool;
  for (let layer = 1; layer <= 5; layer++) {
    const slab = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    new Int32Array(slab.buffer).fill(layer);
    const kernel = pool.load(compiled, { name: `layer ${layer}`, memories: { weights: slab } });
    const program = pool.program([{ kernel, export: "fetch", args: [4 * layer], grid: 2 }]);
    pool.run(program);
    pool.release(program);
    pool.unload(kernel);
    assertThrows(() => pool.run(program), Error, "expected a program of this pool");
  }
  assertEquals([...words.subarray(1, 6)], [1, 2, 3, 4, 5]);
  const memories = { weights: new WebAssembly.Memory({ initial: 1 }) };
  assertThrows(() => pool.load(compiled, { memories }), TypeError, 'expected memory "weights" to be shared');
});

Deno.test("a memory that has grown is reached by all threads", () => {
  const { pool, kernel, memory } = makePool(2);
  using _ = pool;
  const program = pool.program([{ kernel, export: "spread", args: [X, { slot: 0 }], grid: 100 }]);
  pool.setSlots(program, [Y]);
  pool.run(program);
  const end = memory.grow(2) * 65536;
  const words = new Int32Array(memory.buffer);
  words[0] = 9;
  pool.setSlots(program, [end]);
  pool.run(program);
  assertEquals([words[end / 4], words[end / 4 + 99], words[end / 4 + 100]], [9, 9, 0]);
});

Deno.test("mistakes are refused where they are made", () => {
  const memory = new WebAssembly.Memory({ initial: 1 });
  assertThrows(
    () => createPool({ threads: 0, memory }),
    RangeError,
    "expected a positive number of threads but found 0",
  );
  assertThrows(() => createPool({ threads: 2, memory }), TypeError, "expected a shared memory");
  const { pool, kernel } = makePool(1);
  const step = (change: Partial<Step>): Step => ({ kernel, export: "sum", args: [0, 0, 0], grid: 1, ...change });
  assertThrows(() => pool.program([step({ export: "sun" })]), Error, 'affine,sum,spread,trap] but found "sun"');
  assertThrows(() => pool.program([step({ grid: 0 })]), RangeError, "expected a positive grid but found 0");
  assertThrows(() => pool.program([step({ kernel: { id: 99, name: "lost" } })]), Error, 'kernel "lost"');
  const program = pool.program([step({ args: [{ slot: 1 }, 0, 0] })]);
  const foreign = pool.load(new WebAssembly.Module(needsOtherMemory()), { name: "foreign" });
  const unlinked = pool.program([{ kernel: foreign, export: "run", args: [], grid: 1 }]);
  assertThrows(() => pool.run(unlinked), KernelError, "Cannot prepare program");
  pool[Symbol.dispose]();
  pool[Symbol.dispose]();
  assertThrows(() => pool.run(program), Error, "expected an idle pool but it is disposed");
});

function needsOtherMemory(): Uint8Array<ArrayBuffer> {
  const m = createModule();
  m.memory("elsewhere");
  m.export(m.func("run", { from: "i32", to: "i32" }, () => {}));
  return m.bytes();
}

Deno.test("dispose() ends workers that have run, that sleep and that have just started", () => {
  const pools: Pool[] = [];
  for (const workers of ["web", "node"] as const) {
    const { pool, kernel } = makePool(2, { workers });
    pool.run(pool.program(chain(kernel)));
    pools.push(pool, makePool(2, { workers }).pool);
  }
  const before = performance.now();
  for (const pool of pools) pool[Symbol.dispose]();
  assert(performance.now() - before < 5000);
});

Deno.test("a program that forgets to dispose its pool still ends", async () => {
  const source = new URL("../../../backends/wasm/threads.ts", import.meta.url);
  const code = `
    import { createPool } from "${source}";
    const memory = new WebAssembly.Memory({ initial: 1, maximum: 1, shared: true });
    const pool = createPool({ threads: 2, memory });
    const bytes = new Uint8Array([${module(true)}]);
    const kernel = pool.load(bytes);
    pool.run(pool.program([{ kernel, export: "spread", args: [0, 4], grid: 8 }]));
    console.log("ran");
  `;
  const command = new Deno.Command(Deno.execPath(), {
    args: ["eval", "--ext=ts", code],
    signal: AbortSignal.timeout(20_000),
  });
  const { code: status, stdout, stderr } = await command.output();
  assertEquals([status, new TextDecoder().decode(stdout)], [0, "ran\n"], new TextDecoder().decode(stderr));
});
