import { assertEquals, assertRejects } from "@std/assert";
import {
  encodeSafetensors,
  type OutputTensor,
  writeSafetensors,
} from "../../../compiler/artifact/safetensors_writer.ts";
import { writeAtomically } from "../../../compiler/artifact/atomic_write.ts";
import { openSafetensors } from "../../../compiler/frontends/safetensors.ts";
import { fileSource, memorySource } from "../../../compiler/frontends/source.ts";
import { assertUserError, utf8 } from "../frontends/fixtures.ts";

const bytesOf = (array: ArrayBufferView<ArrayBuffer>) =>
  new Uint8Array(array.buffer, array.byteOffset, array.byteLength);

const tensors: OutputTensor[] = [
  { name: "codes", dtype: "U8", shape: [3], data: () => Uint8Array.of(1, 2, 3) },
  { name: "b", dtype: "F32", shape: [1, 2], data: () => Promise.resolve(bytesOf(Float32Array.of(1, -2))) },
  { name: "a", dtype: "F32", shape: [], data: () => bytesOf(Float32Array.of(7)) },
  { name: "scale", dtype: "F16", shape: [1], data: () => bytesOf(Uint16Array.of(0x3c00)) },
  { name: "__proto__", dtype: "I64", shape: [1], data: () => bytesOf(BigInt64Array.of(-1n)) },
  { name: "none", dtype: "F32", shape: [0, 4], data: () => new Uint8Array(0) },
];
const metadata = { vernier: '{"version":1}', a: "ä\n" };

async function encode(...args: Parameters<typeof encodeSafetensors>): Promise<Uint8Array> {
  const parts = await Array.fromAsync(encodeSafetensors(...args));
  return new Uint8Array(await new Blob(parts.map((part) => part.slice())).arrayBuffer());
}

async function withTempFolder(run: (path: string) => Promise<void>): Promise<void> {
  const path = await Deno.makeTempDir();
  try {
    await run(path);
  } finally {
    await Deno.chmod(path, 0o700);
    await Deno.remove(path, { recursive: true });
  }
}

const namesIn = async (path: string) => (await Array.fromAsync(Deno.readDir(path))).map((entry) => entry.name);

Deno.test("encodeSafetensors() writes what openSafetensors() reads", async () => {
  const file = await openSafetensors(memorySource("m", await encode(tensors, metadata)));
  assertEquals(Object.fromEntries(file.metadata), metadata);
  assertEquals([...file.tensors.keys()].toSorted(), tensors.map(({ name }) => name).toSorted());
  for (const { name, dtype, shape, data } of tensors) {
    assertEquals(file.tensors.get(name)?.dtype, dtype);
    assertEquals(file.tensors.get(name)?.shape, shape);
    assertEquals(await file.bytes(name), await data());
  }
});

Deno.test("encodeSafetensors() gives the same bytes for any order, and aligns every tensor", async () => {
  const bytes = await encode(tensors, metadata);
  assertEquals(await encode(tensors.toReversed(), { a: metadata.a, vernier: metadata.vernier }), bytes);
  const file = await openSafetensors(memorySource("m", bytes));
  const alignment = { F32: 4, F16: 2, U8: 1, I64: 8 } as const;
  for (const { name, dtype, offset } of file.tensors.values()) {
    assertEquals(offset % alignment[dtype as keyof typeof alignment], 0, name);
  }
});

Deno.test("encodeSafetensors() writes the exact bytes of the format", async () => {
  const header = '{"x":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'.padEnd(56);
  const expected = [56, 0, 0, 0, 0, 0, 0, 0, ...utf8(header), 9, 8];
  const bytes = await encode([{ name: "x", dtype: "U8", shape: [2], data: () => Uint8Array.of(9, 8) }]);
  assertEquals([...bytes], expected);
});

Deno.test("encodeSafetensors() rejects data of the wrong size and names that occur twice", async () => {
  const x: OutputTensor = { name: "x", dtype: "F32", shape: [2], data: () => new Uint8Array(4) };
  await assertRejects(() => encode([x]), Error, "Internal error: expected 8 bytes for tensor x but found 4");
  await assertRejects(() => encode([x, x]), Error, "share one name");
  await assertRejects(() => encode([{ ...x, name: "__metadata__" }]), Error, "share one name");
});

Deno.test("writeSafetensors() leaves the finished file alone in the folder", () =>
  withTempFolder(async (folder) => {
    const path = `${folder}/model.safetensors`;
    await Deno.writeTextFile(path, "an older file");
    await writeSafetensors(path, tensors, metadata);
    assertEquals(await namesIn(folder), ["model.safetensors"]);
    assertEquals(await Deno.readFile(path), await encode(tensors, metadata));
    assertEquals(await (await openSafetensors(await fileSource(path))).floats("b"), Float32Array.of(1, -2));
  }));

Deno.test("writeSafetensors() keeps the older file, and nothing else, when it fails half-way", () =>
  withTempFolder(async (folder) => {
    const path = `${folder}/model.safetensors`;
    await Deno.writeTextFile(path, "an older file");
    const failing: OutputTensor = {
      name: "z",
      dtype: "U8",
      shape: [1],
      data: () => Promise.reject(new Error("no memory")),
    };
    await assertRejects(() => writeSafetensors(path, [...tensors, failing]), Error, "no memory");
    assertEquals(await namesIn(folder), ["model.safetensors"]);
    assertEquals(await Deno.readTextFile(path), "an older file");
  }));

Deno.test("writeAtomically() says in one line why it cannot write", () =>
  withTempFolder(async (folder) => {
    await assertUserError(() => writeAtomically(`${folder}/none/f`, []), /Cannot write ".*none\/f": there is no such/);
    await Deno.writeTextFile(`${folder}/f`, "");
    await assertUserError(() => writeAtomically(`${folder}/f/g`, []), /Cannot write ".*f\/g": Not a directory/);
    await Deno.mkdir(`${folder}/folder`);
    await assertUserError(() => writeAtomically(`${folder}/folder`, []), /Cannot write ".*folder": Is a directory/);
    assertEquals((await namesIn(folder)).toSorted(), ["f", "folder"]);
  }));

Deno.test({
  name: "writeAtomically() says which permission is missing",
  permissions: { write: false },
  fn: () =>
    assertUserError(() => writeAtomically("somewhere", []), /not given the permission; run with -P or with --allow-w/),
});
