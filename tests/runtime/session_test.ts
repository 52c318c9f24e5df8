import { assert, assertEquals, assertRejects } from "@std/assert";
import type { Backend } from "../../backends/backend.ts";
import { openReference } from "../../backends/reference/backend.ts";
import { createRunner } from "../../backends/runner.ts";
import { openWasm } from "../../backends/wasm/backend.ts";
import { openWebGpu } from "../../backends/webgpu/backend.ts";
import { artifactBytes, openArtifact } from "../../compiler/artifact/artifact.ts";
import { refinedWidths } from "../../compiler/artifact/refined.ts";
import { configOf, parseBitSpec } from "../../compiler/bit_spec.ts";
import { type Folder, memoryFolder } from "../../compiler/frontends/source.ts";
import { modelSites } from "../../compiler/model_sites.ts";
import type { Track } from "../../compiler/recipe.ts";
import { mostLikely } from "../../runtime/generate.ts";
import { artifactSource } from "../../runtime/artifact_source.ts";
import { createSession, openSession } from "../../runtime/session.ts";
import { assertUserError } from "../compiler/frontends/fixtures.ts";
import { openTestGpu } from "../gpu.ts";
import { BACKENDS } from "../support/backends.ts";
import { countingFolder } from "../support/counting_folder.ts";
import { countingBackend } from "../support/counting_backend.ts";
import { trueLogits, type Truth } from "../support/elastic_truth.ts";
import { randomParameters, VARIANTS } from "../support/random_decoder.ts";
import { maxDifference } from "../support/run_module.ts";
import { tinyArtifactParts, tinyFolder } from "../support/tiny_artifact.ts";

const IDS = [1, 9, 4, 4, 16, 7, 2, 11, 5, 13, 8, 3];

async function open(track: Track, config = VARIANTS["tied, grouped queries"]) {
  const parts = await tinyArtifactParts(track, config), bytes = await artifactBytes(parts.description, parts.tensors);
  const truth: Truth = { ...parts, load: randomParameters(7) };
  const folder = memoryFolder("tiny", new Map([["model.safetensors", bytes]]));
  return { truth, folder, sites: modelSites(parts.description.module) };
}

/** The backends, and one that claims that launches are dear, as GPUs do: then linears of one input are one product. */
const KINDS: Readonly<Record<string, () => Promise<Backend>>> = {
  ...BACKENDS,
  "wasm, linears stacked": async () => Object.assign(await openWasm(), { dearLaunches: true }),
};

for (const [name, openBackend] of Object.entries(KINDS)) {
  Deno.test(`session on ${name}: prefill and decode give the logits of the full forward at every configuration`, async () => {
    await using backend = await openBackend();
    for (
      const [track, texts] of [
        ["weights", ["16", "8", "3", "2", "mixed@2.5"]],
        ["activations", ["w8a8", "w4a4", "w4a4kv4", "w16kv2"]],
      ] as const
    ) {
      const { truth, folder, sites } = await open(track);
      const configs = ["16", ...texts].map((text) => configOf(parseBitSpec(text), sites, truth.description.frontier));
      const [full = [], ...logits] = await Promise.all(configs.map((config) => trueLogits(truth, config, IDS)));
      for (const [i, text] of texts.entries()) {
        const expected = logits[i] ?? [];
        await using session = await openSession({ folder, backend, precision: text });
        const check = (found: Float32Array, t: number) => {
          const [difference, cost] = [found, full[t] ?? []].map((own) => maxDifference(own, expected[t] ?? []));
          // On WebAssembly, activations that are not quantized have 16 bits, also those of the head: a small part of what it costs
          // to round the weights.
          const rounded = 1e-4 + (track === "weights" ? (cost ?? NaN) / 50 : 0);
          const allowed = 1e-4 + (name === "reference" ? 0 : rounded);
          assert((difference ?? NaN) < allowed, `${text}, token ${t}: ${difference}, where ${allowed} is allowed`);
        };
        check(await session.prefill(IDS.slice(0, 5)), 4);
        for (let t = 5; t < IDS.length; t++) check(await session.decode(IDS[t] ?? 0), t);
      }
    }
  });

  Deno.test(`session on ${name}: with an attention window, steps give the logits of the full forward`, async () => {
    await using backend = await openBackend();
    const { truth, folder, sites } = await open("activations", VARIANTS["a window of 5 tokens"]);
    const config = configOf(parseBitSpec("w8a8kv8"), sites), expected = await trueLogits(truth, config, IDS);
    const unbounded = (await open("activations")).truth, last = IDS.length - 1;
    const seen = (await trueLogits(unbounded, config, IDS))[last] ?? [];
    assert(maxDifference(expected[last] ?? [], seen) > 1e-3, "the window hides something");
    await using session = await openSession({ folder, backend, precision: "w8a8kv8" });
    assert(maxDifference(await session.prefill(IDS.slice(0, 7)), expected[6] ?? []) < 1e-4, "prefill");
    for (let t = 7; t < IDS.length; t++) {
      assert(maxDifference(await session.decode(IDS[t] ?? 0), expected[t] ?? []) < 1e-4, `token ${t}`);
    }
  });

  Deno.test(`session on ${name}: the greedy text is that of full forwards, and goes on in the same cache`, async () => {
    await using backend = await openBackend();
    const { truth, folder, sites } = await open("activations", VARIANTS["all biases, width 20"]);
    const config = configOf(parseBitSpec("w4a4kv4"), sites), expected: number[] = [];
    for (const _ of IDS) {
      expected.push(mostLikely((await trueLogits(truth, config, [5, 6, ...expected])).at(-1) ?? []));
    }
    await using session = await openSession({ folder, backend, precision: "w4a4kv4" });
    const first = await Array.fromAsync(session.generate([5, 6], { maxTokens: 7 }));
    const rest = await Array.fromAsync(session.generate(first.slice(-1), { maxTokens: 5 }));
    assertEquals([...first, ...rest], expected);
    session.clear();
    const stop = expected.at(-1) ?? 0, stopped = session.generate([5, 6], { maxTokens: 12, stop: [stop] });
    assertEquals(await Array.fromAsync(stopped), expected.slice(0, expected.indexOf(stop)));
  });

  Deno.test(`session on ${name}: use() switches between two tokens and keeps the cache`, async () => {
    await using backend = await openBackend();
    const { folder } = await open("activations");
    /** Logits of the last of some tokens, each appended at a precision of its own. */
    const run = async (...steps: readonly (readonly [precision: string, count: number])[]): Promise<Float32Array> => {
      await using session = await openSession({ folder, backend, precision: "w6a6kv4" });
      let at = 0, logits: Float32Array = new Float32Array();
      for (const [precision, count] of steps) {
        await session.use(precision);
        if (count > 0) logits = await session.prefill(IDS.slice(at, at + count));
        at += count;
        assertEquals(session.length, at);
      }
      return logits;
    };
    const narrow = await run(["w4a4kv4", 7]),
      wide = await run(["w8a8kv4", 7]),
      both = await run(["w8a8kv4", 6], ["w4a4kv4", 1]);
    // Codes that were made, dropped and made again are the same codes.
    assertEquals(await run(["w4a4kv4", 0], ["w8a8kv4", 6], ["w5a5kv4", 0], ["w4a4kv4", 1]), both);
    assertEquals(await run(["w8a8kv4", 6], ["w4a4kv4", 0], ["w8a8kv4", 1]), await run(["w8a8kv4", 6], ["w8a8kv4", 1]));
    for (const other of [narrow, wide]) {
      assert(maxDifference(both, other) > 1e-3, "old tokens at 8 bits, the new one at 4");
    }
  });

  Deno.test(`session on ${name}: what is resident is read once, gives the same codes, and is freed in the end`, async () => {
    await using inner = await openBackend();
    const { backend, alive } = countingBackend(inner), { folder } = await open("weights");
    const counted = countingFolder(folder), visits = ["8", "2", "mixed@2.5", "8", "2", "4"];
    const run = async (resident: boolean) => {
      await using session = await openSession({ folder: counted.folder, backend, precision: "4", resident });
      const logits: Float32Array[] = [], reads: number[] = [];
      for (const precision of visits) {
        counted.take();
        await session.use(precision);
        reads.push(counted.take().length);
        logits.push(await session.prefill(IDS));
        session.clear();
      }
      return { logits, reads };
    };
    const streamed = await run(false), kept = await run(true);
    assertEquals(kept.logits, streamed.logits);
    assert(streamed.reads.every((count) => count > 0), `${streamed.reads}`);
    // 8 bits and 2 are new once; the mixture is made of 2 bits and the 4 that the session began with.
    assertEquals(kept.reads.map((count) => count > 0), [true, true, false, false, false, false]);
    assertEquals(alive.size, 0);
  });

  Deno.test(`session on ${name}: a refined mixture takes what it has learned alone, all else what widths share`, async () => {
    await using backend = await openBackend();
    const plain = await open("weights"), { frontier } = plain.truth.description;
    const mixture = configOf(parseBitSpec("mixed@2.5"), plain.sites, frontier),
      again = refinedWidths(mixture, plain.sites);
    const parts = await tinyArtifactParts("weights", undefined, undefined, undefined, [
      again.map(() => 5),
      again,
    ]);
    const folder = memoryFolder(
      "refined",
      new Map([["model.safetensors", await artifactBytes(parts.description, parts.tensors)]]),
    );
    // Where the mixture's values are those that its widths share, the same artifact without any refined mixture must agree.
    const own = new Map(parts.tensors.map((tensor) => [tensor.name, tensor]));
    const swapped = parts.tensors.map((tensor) => ({
      ...tensor,
      values: (own.get(`refined.1.${tensor.name}`) ?? tensor).values,
    }));
    const truth = { ...parts, load: randomParameters(7) };
    const expected = await trueLogits({ ...truth, tensors: swapped }, mixture, IDS),
      shared = await trueLogits(truth, mixture, IDS);
    const cost = maxDifference(expected[11] ?? [], shared[11] ?? []);
    assert(cost > 1e-2, `what it has learned alone makes a difference: ${cost}`);
    for (const resident of [false, true]) {
      await using session = await openSession({ folder, backend, precision: "mixed@2.5", resident });
      const last = async (precision: string): Promise<Float32Array> => {
        await session.use(precision);
        session.clear();
        return await session.prefill(IDS);
      };
      const first = await last("mixed@2.5"), uniform = await last("2");
      assert(maxDifference(first, expected[11] ?? []) < 1e-4 + cost / 20, "the mixture");
      assertEquals(await last("mixed@2.5"), first);
      assertEquals(await last("2"), uniform);
      await using simple = await openSession({ folder: plain.folder, backend, precision: "2" });
      assertEquals(await simple.prefill(IDS), uniform);
    }
  });

  Deno.test(`session on ${name}: long texts in any pieces give the same, and the cache grows without loss`, async () => {
    await using backend = await openBackend();
    const config = { ...VARIANTS["tied, grouped queries"], maxPositions: 160 };
    const { truth, folder, sites } = await open("activations", config);
    const ids = Array.from({ length: 150 }, (_, i) => 1 + i * i % 16);
    const expected = (await trueLogits(truth, configOf(parseBitSpec("w8a8kv8"), sites), ids)).at(-1) ?? [];
    await using session = await openSession({ folder, backend, precision: "w8a8kv8" });
    for (const pieces of [[150], [1, 8, 9, 32, 15, 80, 5], [63, 1, 1, 64, 1, 20]]) {
      let at = 0, logits: Float32Array = new Float32Array();
      for (const count of pieces) logits = await session.prefill(ids.slice(at, at += count));
      assertEquals(session.length, 150);
      assert(maxDifference(logits, expected) < 1e-3, `pieces ${pieces}`);
      session.clear();
    }
  });

  Deno.test(`session on ${name}: everything is freed in the end`, async () => {
    await using inner = await openBackend();
    const { backend, alive } = countingBackend(inner), { folder } = await open("activations");
    {
      await using session = await openSession({ folder, backend, precision: "w4a4kv4" });
      await session.prefill(IDS);
      const between = alive.size;
      for (const precision of ["w8kv4", "w16kv4", "w4a4kv4"]) {
        await session.use(precision);
        await session.decode(3);
      }
      assertEquals(alive.size, between, "as many tensors as before");
      await assertRejects(() => session.use("w4a4kv8"));
      await session.decode(3);
      session.clear();
      await session.use("w4kv8");
    }
    assertEquals(alive.size, 0);
  });
}

Deno.test("session refuses what its model cannot do, and goes on", async () => {
  const backend = openReference();
  await using session = await openSession({ folder: await tinyFolder("activations"), backend, precision: "w8a8kv8" });
  const before = session.config;
  await assertUserError(
    () => session.prefill(Array.from({ length: 33 }, () => 1)),
    /^Expected at most 32 tokens, the model's context, but found 33; use/,
  );
  await session.prefill(IDS);
  await assertUserError(
    () => session.use("w8a8kv4"),
    /^Expected 8 bits for "layers\.0\.attention\.key", as its cache has, but found 4; keep/,
  );
  await assertUserError(
    () => session.use("w2"),
    /^Expected 4, 5, 6, 7, 8 or 16 bits for "layers\.0\.attention\.query\.weight" but found 2, in/,
  );
  await assertUserError(
    () => session.use("mixed"),
    /^Expected a model with allocated bits for "mixed" but found none; compile/,
  );
  await assertUserError(
    () => session.use({ "layers.7.mlp.input": 4 }),
    /^Expected a site of the model but found "layers\.7\.mlp\.input"/,
  );
  await assertUserError(() => session.use("w4b4"), /^Expected a bit specification but found "w4b4"; use/);
  await assertRejects(() => session.prefill([]), RangeError, "Expected at least one token but found none");
  assertEquals([session.config, session.length], [before, IDS.length]);
  const left = await Array.fromAsync(session.generate([1]));
  assertEquals([left.length, session.length], [20, 32], "generates to the end of the context");
});

Deno.test("session refuses what is no token of its model, a length beyond its context, and everything once it has ended", async () => {
  const backend = openReference(), folder = await tinyFolder("weights");
  const session = await openSession({ folder, backend, precision: "4" });
  for (const id of [99999, -1, 1.5, NaN]) {
    await assertUserError(
      () => session.decode(id),
      /^Expected token ids below the model's vocabulary size \d+ but found /,
    );
  }
  assertEquals(session.length, 0);
  await session[Symbol.asyncDispose]();
  await session[Symbol.asyncDispose]();
  await assertRejects(() => session.decode(1), TypeError, "it has ended");
  await assertRejects(() => session.use("2"), TypeError, "it has ended");
  await assertUserError(
    () => openSession({ folder, backend, length: { prompt: 4, tokens: 33 } }),
    /^Expected a length of at most 32 tokens, the model's context, but found 33/,
  );
});

Deno.test("a session that cannot switch is as it was, or has ended and freed everything", async () => {
  const { backend, alive } = countingBackend(openReference()), { folder } = await open("weights");
  // Reads of an opened artifact fail from some number on, `failing` of them.
  let reads = 0, from = Infinity, failing = 0;
  const failed = () => ++reads > from && reads <= from + failing;
  const unreliable: Folder = {
    ...folder,
    open: async (file) => {
      const source = await folder.open(file);
      const check = () => {
        if (failed()) throw new Error("unplugged");
      };
      return {
        ...source,
        read: async (...range) => {
          check();
          return await source.read(...range);
        },
        readAll: async (ranges) => {
          check();
          return await source.readAll(ranges);
        },
      };
    },
  };
  for (const lasting of [false, true]) {
    from = Infinity;
    const session = await openSession({ folder: unreliable, backend, precision: "8" });
    const before = await session.prefill(IDS);
    session.clear();
    [reads, from, failing] = [0, 5, lasting ? Infinity : 1];
    await assertRejects(() => session.use("2"), Error, "unplugged");
    if (lasting) {
      await assertRejects(() => session.decode(1), TypeError, "it has ended");
      assertEquals(alive.size, 0);
    } else {
      assertEquals(new Set(Object.values(session.config)), new Set([8]));
      assertEquals(await session.prefill(IDS), before);
      await session[Symbol.asyncDispose]();
    }
  }
  for (from of [0, 1, 2, 3, 5, 8]) {
    [reads, failing] = [0, 1];
    await assertRejects(() => openSession({ folder: unreliable, backend, precision: "3" }), Error, "unplugged");
    assertEquals(alive.size, 0, `read ${from} failed`);
  }
});

Deno.test("a session whose cache finds no room to grow has ended, rather than go on with another text", async () => {
  const { backend, alive } = countingBackend(openReference());
  let room = true;
  // Caches that grow are results of a program; everything else is there by then.
  const run: Backend["run"] = (program, ...rest) => {
    if (!room && program.outputs.grown) throw new Error("out of memory");
    return backend.run(program, ...rest);
  };
  const { folder } = await open("weights", { ...VARIANTS["tied, grouped queries"], maxPositions: 512 });
  const session = await openSession({ folder, backend: { ...backend, run }, precision: "4" });
  await session.prefill(IDS);
  room = false;
  await assertRejects(() => session.prefill(Array.from({ length: 300 }, () => 1)), Error, "out of memory");
  await assertRejects(() => session.decode(1), TypeError, "it has ended");
  assertEquals(alive.size, 0);
});

Deno.test("a step that fails leaves nothing on the backend, and the session goes on", async () => {
  const { backend, alive } = countingBackend(openReference());
  let calls = 0, failing = -1;
  const fail = () => {
    if (calls++ === failing) throw new Error("out of memory");
  };
  const unreliable: Backend = {
    ...backend,
    upload: (...args) => (fail(), backend.upload(...args)),
    run: (...args) => (fail(), backend.run(...args)),
    download: (...args) => (fail(), backend.download(...args)),
  };
  const { folder } = await open("weights");
  await using session = await openSession({ folder, backend: unreliable, precision: "4" });
  await using other = await openSession({ folder, backend: openReference(), precision: "4" });
  await session.prefill([5, 6]);
  await other.prefill([5, 6]);
  const before = alive.size;
  // Three uploads, embedding, two blocks, head, download.
  for (let call = 0; call < 8; call++) {
    [calls, failing] = [0, call];
    await assertRejects(() => session.decode(7), Error, "out of memory");
    assertEquals([alive.size, session.length], [before, 2], `call ${call} failed`);
  }
  failing = -1;
  assertEquals(await session.decode(7), await other.decode(7));
});

const largest = (logits: readonly number[]): number => Math.max(...logits.map(Math.abs));

/** Logits of some tokens, the first five of them at once, and the bytes of the cache. */
async function logitsOn(backend: Backend, folder: Folder, precision: string) {
  await using session = await openSession({ folder, backend, precision, length: { prompt: 5, tokens: IDS.length } });
  const logits = [await session.prefill(IDS.slice(0, 5))];
  for (const id of IDS.slice(5)) logits.push(await session.decode(id));
  return { logits: logits.flatMap((row) => [...row]), cache: session.memory?.cache ?? 0 };
}

Deno.test("caches of halves take half the memory, and move logits by what halves are off; quantized ones stay as they are", async () => {
  await using plain = await openWasm();
  await using own = await openWasm();
  const halves = Object.assign(own, { halves: true });
  const { folder } = await open("weights"), floats = await logitsOn(plain, folder, "4");
  const found = await logitsOn(halves, folder, "4"), off = maxDifference(found.logits, floats.logits);
  assert(found.cache < 0.52 * floats.cache, "half of it, and what rows are padded with");
  assert(off > 0 && off < 2 ** -8 * largest(floats.logits), `logits are ${off} off`);
  const quantized = (await open("activations")).folder;
  assertEquals(await logitsOn(halves, quantized, "w4a4kv4"), await logitsOn(plain, quantized, "w4a4kv4"));
});

Deno.test("a session on WebGPU has the logits of the reference, with caches of halves and with quantized ones", async () => {
  const device = await openTestGpu();
  if (!device) return;
  await using backend = await openWebGpu({ device });
  const reference = openReference(), halves = { ...openReference(), halves: true };
  for (const [track, precision] of [["weights", "3"], ["weights", "16"], ["activations", "w8a8"]] as const) {
    const { folder } = await open(track), own = await logitsOn(backend, folder, precision);
    const [expected, floats] = [
      (await logitsOn(halves, folder, precision)).logits,
      (await logitsOn(reference, folder, precision)).logits,
    ];
    // A sum in another order may round to the next half: as much as one of many.
    const off = maxDifference(own.logits, expected), cost = maxDifference(expected, floats);
    // Codes of quantized activations jump where what they are made of is a little off.
    const most = track === "weights" ? 2 ** -8 * largest(floats) : Infinity;
    assert(off < cost / 2 && cost < most, `${track} at ${precision}: ${off} off, where halves cost ${cost}`);
  }
  const { folder } = await open("activations");
  const [own, expected] = [await logitsOn(backend, folder, "w4a4kv4"), await logitsOn(reference, folder, "w4a4kv4")];
  assert(maxDifference(own.logits, expected.logits) < 1e-4);
  device.destroy();
});

Deno.test("sessions of one model share their programs", async () => {
  const backend = openReference(), { folder } = await open("weights"), after: number[] = [];
  let compiled = 0;
  const compile: Backend["compile"] = (...args) => {
    compiled++;
    return backend.compile(...args);
  };
  const source = artifactSource(await openArtifact(folder), createRunner({ ...backend, compile }));
  for (let i = 0; i < 3; i++) {
    await using session = await createSession(source, "4");
    await session.prefill(IDS);
    after.push(compiled);
  }
  assert(compiled > 0);
  assertEquals(after, [compiled, compiled, compiled]);
});

Deno.test("session refuses activation and cache widths of a model with weights alone", async () => {
  const backend = openReference(), folder = await tinyFolder("weights");
  const open = (precision: string) => openSession({ folder, backend, precision });
  await assertUserError(
    () => open("w4a4"),
    /^Expected a model with quantizers of activations for "w4a4" but found none; compile/,
  );
  await assertUserError(
    () => open("w4kv4"),
    /^Expected a model with quantizers of cached keys and values for "w4kv4" but found none/,
  );
});
