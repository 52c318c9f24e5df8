import { assertEquals, assertMatch } from "@std/assert";
import { openSafetensors } from "../../../compiler/frontends/safetensors.ts";
import { fileSource, memorySource } from "../../../compiler/frontends/source.ts";
import { assertUserError, f32Safetensors, rawSafetensors, utf8 } from "./fixtures.ts";

const open = (bytes: Uint8Array) => openSafetensors(memorySource("model.safetensors", bytes));

const header = (dtype: unknown, shape: unknown, offsets: unknown) =>
  JSON.stringify({ a: { dtype, shape, data_offsets: offsets } });

Deno.test("openSafetensors() reads names, shapes, metadata and values", async () => {
  const bytes = rawSafetensors(
    '{"__metadata__":{"format":"pt"},"b":{"dtype":"I8","shape":[2],"data_offsets":[8,10]},' +
      '"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},"c":{"dtype":"F16","shape":[0],"data_offsets":[10,10]}}   ',
    new Uint8Array([0, 0, 128, 63, 0, 0, 0, 192, 255, 7]),
  );
  const file = await open(bytes);
  assertEquals([...file.tensors.keys()], ["a", "b", "c"]);
  assertEquals(file.tensors.get("a")?.shape, [1, 2]);
  assertEquals(file.metadata.get("format"), "pt");
  assertEquals(await file.floats("a"), Float32Array.of(1, -2));
  assertEquals(await file.bytes("b"), Uint8Array.of(255, 7));
  assertEquals(await file.floats("c"), new Float32Array(0));
});

Deno.test("openSafetensors() reads the header alone, then single tensors by range", async () => {
  const source = memorySource(
    "m",
    f32Safetensors({ a: { shape: [2], values: [1, 2] }, b: { shape: [1], values: [3] } }),
  );
  const reads: number[] = [];
  const spied = {
    ...source,
    read: (offset: number, length: number) => (reads.push(length), source.read(offset, length)),
  };
  const file = await openSafetensors(spied);
  assertEquals(reads.reduce((a, b) => a + b), source.size - 12);
  assertEquals(await file.floats("b"), Float32Array.of(3));
  assertEquals(reads.at(-1), 4);
});

Deno.test("openSafetensors() reads scalars, and names that objects treat specially", async () => {
  const text = '{"__proto__":{"dtype":"F32","shape":[],"data_offsets":[0,4]},' +
    '"0":{"dtype":"F32","shape":[],"data_offsets":[4,8]}}';
  const file = await open(rawSafetensors(text, new Uint8Array(Float32Array.of(5, 6).buffer)));
  assertEquals(await file.floats("__proto__"), Float32Array.of(5));
  assertEquals(await file.floats("0"), Float32Array.of(6));
});

Deno.test("floats() refuses integers and absent tensors by name", async () => {
  const file = await open(rawSafetensors(header("I32", [1], [0, 4]), new Uint8Array(4)));
  await assertUserError(() => file.floats("a"), /tensor "a" to be F32, F16, BF16 or F64 but found I32/);
  await assertUserError(() => file.floats("z"), /tensor "z" but found none/);
  await assertUserError(() => file.bytes("z"), /tensor "z" but found none/);
});

const valid = header("F32", [2], [0, 8]);
const eight = new Uint8Array(8);

const broken: Record<string, [Uint8Array, RegExp]> = {
  "an empty file": [new Uint8Array(0), /found 0 bytes/],
  "a file shorter than its first field": [new Uint8Array(7), /found 7 bytes/],
  "a header that ends beyond the file": [rawSafetensors(valid).subarray(0, 20), /header that fits/],
  "a header of 2⁶⁴ − 1 bytes": [new Uint8Array(64).fill(255), /found one of 18446744073709551615/],
  "a header of no bytes": [rawSafetensors(""), /starts with "\{" but found byte none/],
  "a header that starts with a space": [rawSafetensors(` ${valid}`, eight), /starts with "\{"/],
  "a header that is an array": [rawSafetensors("[]"), /starts with "\{"/],
  "a header that is no JSON": [rawSafetensors("{nonsense}"), /Cannot parse JSON/],
  "a header cut in the middle": [rawSafetensors(valid.slice(0, 20), eight), /Cannot parse JSON/],
  "a header nested a million deep": [rawSafetensors(`{"a":${"[".repeat(1e6)}`), /Cannot parse JSON/],
  "a header that is not UTF-8": [rawSafetensors(new Uint8Array([123, 34, 255, 34, 58, 49, 125])), /UTF-8/],
  "a tensor that occurs twice": [
    rawSafetensors(`${valid.slice(0, -1)},${valid.slice(1)}`, eight),
    /found "a" twice/,
  ],
  "a tensor that occurs twice, once in escapes": [
    rawSafetensors(`${valid.slice(0, -1)},${valid.slice(1).replace('"a"', '"\\u0061"')}`, eight),
    /found "a" twice/,
  ],
  "offsets that occur twice": [
    rawSafetensors('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"data_offsets":[0,8]}}', eight),
    /found "data_offsets" twice/,
  ],
  "metadata that is no object": [rawSafetensors('{"__metadata__":[]}'), /"__metadata__" to be an object/],
  "metadata that is no string": [rawSafetensors('{"__metadata__":{"k":1}}'), /metadata "k" to be a string/],
  "a tensor that is null": [rawSafetensors('{"a":null}'), /an object as description of tensor "a"/],
  "a tensor without fields": [rawSafetensors('{"a":{}}'), /a known dtype of tensor "a" but found undefined/],
  "an unknown dtype": [
    rawSafetensors(header("F33", [2], [0, 8]), eight),
    /a known dtype of tensor "a" but found "F33"/,
  ],
  "a dtype that every object has": [rawSafetensors(header("toString", [2], [0, 8]), eight), /a known dtype/],
  "a shape that is no list": [rawSafetensors(header("F32", 2, [0, 8]), eight), /as shape of tensor "a" but found 2/],
  "a negative size": [rawSafetensors(header("F32", [-2], [0, 8]), eight), /as shape of tensor "a" but found \[-2\]/],
  "two negative sizes": [rawSafetensors(header("F32", [-1, -2], [0, 8]), eight), /as shape/],
  "a fractional size": [rawSafetensors(header("F32", [0.5, 4], [0, 8]), eight), /as shape/],
  "a size in quotes": [rawSafetensors(header("F32", ["2"], [0, 8]), eight), /as shape/],
  "a size beyond 2⁵³": [rawSafetensors(header("F32", [2 ** 53], [0, 8]), eight), /as shape/],
  "an infinite size": [rawSafetensors('{"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,8]}}', eight), /as shape/],
  "sizes whose product overflows": [rawSafetensors(header("F32", [2 ** 40, 2 ** 40], [0, 8]), eight), /representable/],
  "an overflow hidden by a zero": [rawSafetensors(header("F32", [2 ** 40, 2 ** 40, 0], [0, 0])), /representable/],
  "one offset": [rawSafetensors(header("F32", [2], [8]), eight), /two non-negative integers/],
  "three offsets": [rawSafetensors(header("F32", [2], [0, 8, 8]), eight), /two non-negative integers/],
  "a negative offset": [rawSafetensors(header("F32", [2], [-8, 0]), eight), /two non-negative integers/],
  "a fractional offset": [rawSafetensors(header("F32", [2], [0.5, 8.5]), eight), /two non-negative integers/],
  "offsets in reverse": [rawSafetensors(header("F32", [2], [8, 0]), eight), /within the file's 8 bytes/],
  "offsets beyond the file": [rawSafetensors(header("F32", [4], [0, 16]), eight), /within the file's 8 bytes/],
  "data that is cut off": [rawSafetensors(valid, eight.subarray(0, 5)), /within the file's 5 bytes/],
  "too few bytes for the shape": [rawSafetensors(header("F32", [3], [0, 8]), eight), /Expected 12 bytes for F32 \[3\]/],
  "too many bytes for the shape": [rawSafetensors(header("F16", [2], [0, 8]), eight), /Expected 4 bytes for F16/],
  "bytes behind the last tensor": [rawSafetensors(header("F32", [1], [0, 4]), eight), /end at byte .* found/],
  "bytes without any tensor": [rawSafetensors("{}", eight), /end at byte/],
  "a gap before the first tensor": [
    rawSafetensors(header("F32", [1], [4, 8]), eight),
    /"a" to start at data byte 0.*gap/,
  ],
  "tensors that overlap": [
    rawSafetensors(
      '{"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}',
      eight,
    ),
    /"b" to start at data byte 5 but found an overlap/,
  ],
  "tensors that share their bytes": [
    rawSafetensors(
      '{"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}}',
      eight,
    ),
    /overlap/,
  ],
};

for (const [what, [bytes, pattern]] of Object.entries(broken)) {
  Deno.test(`openSafetensors() rejects ${what}`, () => assertUserError(() => open(bytes), pattern));
}

Deno.test("openSafetensors() rejects a header above 100 MB before reading it", async () => {
  const size = 2 ** 40;
  let largest = 0;
  const source = {
    name: "huge",
    size,
    read(_offset: number, length: number) {
      largest = Math.max(largest, length);
      const bytes = new Uint8Array(8);
      new DataView(bytes.buffer).setBigUint64(0, 100_000_001n, true);
      return Promise.resolve(bytes);
    },
    readAll: () => Promise.reject(new Error("Expected no tensor to be read")),
  };
  await assertUserError(() => openSafetensors(source), /found one of 100000001/);
  assertEquals(largest, 8);
});

Deno.test("openSafetensors() accepts or clearly rejects every single corrupted byte of a header", async () => {
  const bytes = f32Safetensors({ a: { shape: [2], values: [1, 2] }, b: { shape: [2, 1], values: [3, 4] } });
  for (let at = 0; at < bytes.length - 16; at++) {
    for (const value of [0, 34, 44, 49, 91, 125, 255]) {
      const corrupted = bytes.slice();
      corrupted[at] = value;
      await open(corrupted).catch((error) =>
        assertMatch(`${error.name}: ${error.message}`, /^UserError: .*model\.safe/)
      );
    }
  }
});

Deno.test("openSafetensors() reads a file on disk, and names a file that shrinks under it", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const path = `${folder}/model.safetensors`;
    await Deno.writeFile(path, f32Safetensors({ a: { shape: [2], values: [1, 2] } }));
    const file = await openSafetensors(await fileSource(path));
    assertEquals(await file.floats("a"), Float32Array.of(1, 2));
    await Deno.writeFile(path, utf8("x"));
    await assertUserError(() => file.floats("a"), /found 1 bytes|but found .* bytes/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
