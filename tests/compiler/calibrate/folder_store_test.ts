import { assertEquals, assertRejects } from "@std/assert";
import type { HostArray } from "../../../backends/backend.ts";
import { toStored } from "../../../backends/stored.ts";
import { canonical, openFolderStore } from "../../../compiler/calibrate/folder_store.ts";
import { memoryStore, type StoredTensor } from "../../../compiler/calibrate/store.ts";
import { UserError } from "../../../ir/errors.ts";

const TENSORS: readonly StoredTensor[] = [
  { name: "w.codes", dtype: "i8", shape: [1, 2, 2], values: Int32Array.of(-127, 0, 5, 127) },
  { name: "w.fine", dtype: "u2", shape: [1, 2, 4], values: Int32Array.of(0, 1, 2, 3, 3, 3, 0, 2) },
  { name: "w.scales", dtype: "f16", shape: [2, 1], values: Float32Array.of(0.5, 2 ** -24) },
  { name: "w.adapter.a", dtype: "f32", shape: [3], values: Float32Array.of(Math.fround(0.1), -0, 3e-40) },
];

const byName = (tensors: readonly StoredTensor[] = []) => tensors.toSorted((a, b) => a.name < b.name ? -1 : 1);

async function inFolder(test: (path: string) => Promise<void>): Promise<void> {
  const root = await Deno.makeTempDir();
  try {
    await test(`${root}/.calibration`);
  } finally {
    await Deno.remove(root, { recursive: true });
  }
}

Deno.test("openFolderStore() finds what an earlier store of the same fingerprint saved, bit by bit", () =>
  inFolder(async (path) => {
    const first = await openFolderStore(path, { seed: 1, model: "a" });
    assertEquals([first.finished, await first.load(0)], [0, undefined]);
    await first.save(0, TENSORS);
    assertEquals(byName(await first.load(0)), byName(TENSORS));
    const second = await openFolderStore(path, { model: "a", seed: 1 });
    assertEquals(second.finished, 1);
    assertEquals(byName(await second.load(0)), byName(TENSORS));
    assertEquals(await second.load(1), undefined);
    assertEquals(await second.tensors(1), undefined);
    const [lazy] = (await second.tensors(0) ?? []).filter(({ name }) => name === "w.codes");
    assertEquals(await lazy?.values(), TENSORS[0]?.values);
    await second.remove();
    await assertRejects(() => Deno.stat(path), Deno.errors.NotFound);
  }));

Deno.test("stores on disk and in memory read some tensors of a call as files hold them, and leave out what they lack", () =>
  inFolder(async (path) => {
    for (const store of [await openFolderStore(path, {}), memoryStore()]) {
      await store.save(0, TENSORS);
      const read = await store.read(0, ["w.fine", "w.scales", "w.other"]);
      assertEquals([...read.keys()].sort(), ["w.fine", "w.scales"]);
      for (const { name, dtype, values } of TENSORS.slice(1, 3)) {
        assertEquals(read.get(name)?.bytes, toStored(dtype, values), name);
      }
      assertEquals((await store.read(1, ["w.fine"])).size, 0);
      // What is saved again is what is read.
      const others = TENSORS.map((tensor) => ({ ...tensor, values: tensor.values.map(() => 1) as HostArray }));
      await store.save(0, others);
      assertEquals((await store.read(0, ["w.codes"])).get("w.codes")?.bytes, new Uint8Array(4).fill(1));
    }
  }));

Deno.test("openFolderStore() refuses the calls of another calibration and names what differs", () =>
  inFolder(async (path) => {
    await openFolderStore(path, { seed: 1, model: "a", settings: { epochs: 8 } });
    const error = await assertRejects(
      () => openFolderStore(path, { seed: 1, model: "b", settings: { epochs: 9 } }),
      UserError,
    );
    assertEquals(
      error.message,
      `Expected an interrupted run of this calibration but found one of another model, settings, in "${path}"; ` +
        "repeat that run's options to finish it, or remove the folder to start anew",
    );
  }));

Deno.test("openFolderStore() removes what was left half written, and takes it for unfinished", () =>
  inFolder(async (path) => {
    await openFolderStore(path, {});
    await Deno.writeTextFile(`${path}/call-0000.safetensors.1a2b3c4d.tmp`, "half");
    const store = await openFolderStore(path, {});
    assertEquals(store.finished, 0);
    assertEquals(await Array.fromAsync(Deno.readDir(path), ({ name }) => name), ["fingerprint.json"]);
  }));

Deno.test("canonical() does not depend on the order of keys, at any depth", () => {
  assertEquals(canonical({ b: [{ d: 1, c: null }], a: "x" }), canonical({ a: "x", b: [{ c: null, d: 1 }] }));
  assertEquals(canonical([1, 2]) === canonical([2, 1]), false);
});
