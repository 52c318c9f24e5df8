import { assert, assertEquals, assertRejects } from "@std/assert";
import { fromStored, type StoredBytes } from "../../../backends/stored.ts";
import { artifactBytes, isArtifact, openArtifact, writeArtifact } from "../../../compiler/artifact/artifact.ts";
import { ARTIFACT_VERSION } from "../../../compiler/artifact/description.ts";
import { halfBits, halfValue } from "../../../ir/numerics.ts";
import { printModule } from "../../../ir/module_text.ts";
import { typeText } from "../../../ir/types.ts";
import { UserError } from "../../../ir/errors.ts";
import { localFolder, memoryFolder } from "../../../compiler/frontends/source.ts";
import { tinyArtifactParts } from "../../support/tiny_artifact.ts";
import { assertUserError, f32Safetensors, folderOf, rawSafetensors } from "../frontends/fixtures.ts";

const parts = await tinyArtifactParts("weights"), bytes = await artifactBytes(parts.description, parts.tensors);
const folder = (file: Uint8Array) => memoryFolder("tiny", new Map([["model.safetensors", file]]));

type Json = { [key: string]: Json } & { [key: string]: unknown };

/** What the format's specification says about one tensor. */
interface Entry {
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly data_offsets: readonly [number, number];
}

/** The header of a safetensors file as the format's specification has it, read without any code of ours. */
function readHeader(file: Uint8Array<ArrayBuffer>): { header: Json; data: Uint8Array<ArrayBuffer> } {
  const length = Number(new DataView(file.buffer).getBigUint64(0, true));
  return { header: JSON.parse(new TextDecoder().decode(file.slice(8, 8 + length))), data: file.slice(8 + length) };
}

/** The same file with another header. */
function withHeader(change: (header: Json) => void): Uint8Array {
  const { header, data } = readHeader(bytes);
  change(header);
  return rawSafetensors(JSON.stringify(header), data);
}

/** The same file with another description. */
const withDescription = (change: (description: Json) => void) =>
  withHeader((header) => {
    const metadata = header.__metadata__ as Record<string, string>, description = JSON.parse(metadata.vernier ?? "");
    change(description);
    metadata.vernier = JSON.stringify(description);
  });

Deno.test("an artifact comes back as it was written", async () => {
  const path = await Deno.makeTempDir();
  try {
    await writeArtifact(`${path}/model.safetensors`, parts.description, parts.tensors);
    assertEquals([...Deno.readDirSync(path)].map(({ name }) => name), ["model.safetensors"]);
    assertEquals(await Deno.readFile(`${path}/model.safetensors`), bytes);
    const artifact = await openArtifact(await localFolder(path));
    const { module, ...rest } = artifact.description, { module: written, ...expected } = parts.description;
    assertEquals(rest, expected);
    assertEquals(printModule(module), printModule({ ...written, derived: {} }));
    assertEquals([...artifact.names].sort(), [...new Set(parts.tensors.map(({ name }) => name))].sort());
    const read = await artifact.read(parts.tensors.map(({ name }) => name));
    for (const { name, dtype, shape, values } of parts.tensors) {
      const { type, bytes } = read.get(name) as StoredBytes, given = await values();
      assertEquals(typeText(type), `${dtype}[${shape.join(",")}]`);
      assertEquals(fromStored(dtype, bytes), dtype === "f16" ? given.map((x) => halfValue(halfBits(x))) : given, name);
    }
  } finally {
    await Deno.remove(path, { recursive: true });
  }
});

Deno.test("an artifact is plain safetensors: the format's own rules read it", async () => {
  const { header, data } = readHeader(bytes), { __metadata__: metadata, ...tensors } = header;
  assert(Object.values(metadata as object).every((value) => typeof value === "string"));
  let end = 0;
  const entries = Object.entries(tensors as unknown as Record<string, Entry>);
  const byOffset = entries.map(([name, { dtype, shape, data_offsets: [from, to] }]) => ({
    name,
    dtype,
    shape,
    from,
    to,
  }));
  byOffset.sort((a, b) => a.from - b.from);
  for (const { dtype, shape, from, to } of byOffset) {
    const size = { F32: 4, F16: 2, I8: 1, U8: 1 }[dtype] ?? NaN;
    assertEquals([from, to - from], [end, shape.reduce((a, b) => a * b, size)]);
    assertEquals(from % size, 0, "aligned");
    end = to;
  }
  assertEquals(end, data.length);
  const codes = byOffset.find(({ name }) => name === "layers.0.mlp.up.weight.master.codes");
  const scales = byOffset.find(({ name }) => name === "layers.0.mlp.up.weight.master.scales");
  const fine = byOffset.find(({ name }) => name === "layers.0.mlp.up.weight.master.fine");
  assertEquals([codes?.dtype, codes?.shape, scales?.dtype, scales?.shape], ["I8", [24, 2, 12], "F16", [24, 2, 1]]);
  assertEquals([fine?.dtype, fine?.shape], ["U8", [24, 2, 3]]);
  const written = parts.tensors.find(({ name }) => name === codes?.name);
  assertEquals([...new Int8Array(data.buffer, codes?.from, 576)], [...await written?.values() ?? []]);
  const description = JSON.parse((metadata as Record<string, string>).vernier ?? "");
  assertEquals([description.version, description.generator], [ARTIFACT_VERSION, "vernier 0.1.0"]);
  assertEquals(description.sites[0], {
    name: "layers.0.attention.query.weight",
    role: "weight",
    parameters: 256,
    rows: 16,
  });
});

Deno.test("artifacts are told from checkpoints, and neither is taken for the other", async () => {
  const checkpoint = folderOf({ "model.safetensors": f32Safetensors({ x: { shape: [1], values: [1] } }) });
  assertEquals([await isArtifact(folder(bytes)), await isArtifact(checkpoint), await isArtifact(folderOf({}))], [
    true,
    false,
    false,
  ]);
  await assertUserError(
    () => openArtifact(checkpoint),
    /^Expected metadata "vernier" but found none, in "model\/model\.safetensors"; compile/,
  );
  await assertUserError(
    () => openArtifact(folderOf({})),
    /^Expected an artifact in "model" but found no model\.safetensors; compile/,
  );
});

Deno.test("artifacts of other versions are refused", async () => {
  const open = (version: unknown) => openArtifact(folder(withDescription((json) => Object.assign(json, { version }))));
  for (const [version, found] of [[1, "1"], [2, "2"], ["3", '"3"'], [undefined, "null"]] as const) {
    await assertUserError(
      () => open(version),
      new RegExp(
        `^Expected an artifact of version ${ARTIFACT_VERSION} but found ${found}, in "tiny/model.safetensors"; use`,
      ),
    );
  }
});

Deno.test("damaged descriptions are refused by name of what is wrong", async () => {
  const cases: readonly [change: (json: Json) => void, message: RegExp][] = [
    [(json) => delete json.module, /^Expected "module" to be a string but found none/],
    [
      (json) => Object.assign(json, { module: "function block {" }),
      /^Cannot read the module: .* in "vernier of tiny\/model/,
    ],
    [
      (json) => Object.assign(json, { module: String(json.module).replace("return h=", "return g=") }),
      /^Cannot read the module: /,
    ],
    [
      (json) => Object.assign(json, { module: String(json.module).replace("sigmoid", "system") }),
      /^Cannot read the module: /,
    ],
    [(json) => Object.assign(json, { recipe: 3 }), /^Expected "recipe" to be an object but found 3/],
    [
      (json) => Object.assign(json.recipe ?? {}, { track: "x" }),
      /^Expected "recipe\.track" to be "weights", "activations" or "both" but found "x"/,
    ],
    [
      (json) => Object.assign(json.recipe ?? {}, { bitGroups: [[1]] }),
      /^Expected "recipe\.bitGroups" to be lists of widths from 2 to 8/,
    ],
    [
      (json) => Object.assign(json.recipe ?? {}, { rotate: 1 }),
      /^Expected "recipe\.rotate" to be true or false but found 1/,
    ],
    [
      (json) => Object.assign(json.recipe?.scheme ?? {}, { adapters: { pairs: { common: -1 }, uses: {} } }),
      /^Expected "recipe\.scheme\.adapters\.pairs\.common" to be/,
    ],
    [
      (json) => Object.assign(json.recipe?.scheme?.groupSizes ?? {}, { 3: 0 }),
      /^Expected "recipe\.scheme\.groupSizes" to be/,
    ],
    [
      (json) => Object.assign(json.recipe?.scheme?.master ?? {}, { kind: "int4" }),
      /^Expected "recipe\.scheme\.master\.kind" to be one of "int8", "int10", "fp16"/,
    ],
    [(json) => delete json.config, /^Expected "config" to be an object but found none/],
    [
      (json) => Object.assign(json.provenance ?? {}, { seed: "1" }),
      /^Expected "provenance\.seed" to be an integer but found "1"/,
    ],
    [
      (json) => Object.assign(json, { sensitivities: { x: {} } }),
      /^Expected "sensitivities" to be losses by width of the module's weights/,
    ],
    [
      (json) => Object.assign(json.frontier ?? {}, { sites: ["x"] }),
      /^Expected "frontier\.sites" to be names of the module's weights/,
    ],
    [
      (json) => Object.assign(json.frontier ?? {}, { points: [] }),
      /^Expected "frontier\.points" to be points of 14 widths/,
    ],
    [
      (json) => Object.assign(json.frontier ?? {}, { parameters: [1] }),
      /^Expected "frontier\.parameters" to be 14 positive integers/,
    ],
    [
      (json) => Object.assign(json.frontier ?? {}, { refined: [{ meanBits: 2, loss: 1, widths: "2" }] }),
      /^Expected "frontier\.refined" to be points of 14 widths/,
    ],
    [
      (json) => Object.assign(json.frontier ?? {}, { activations: 1 }),
      /^Expected "frontier\.activations" to be true or false/,
    ],
    [
      (json) => Object.assign(json, { refined: [[2, 3]] }),
      /^Expected "refined" to be lists of 14 widths, one per weight and activation/,
    ],
    [
      (json) => Object.assign(json, { refined: [Array(14).fill(3)] }),
      /^Expected a tensor "refined\.0\.layers\.0\.\S+" but found none of that name/,
    ],
  ];
  for (const [change, message] of cases) {
    await assertUserError(() => openArtifact(folder(withDescription(change))), message);
  }
  const nonsense = withHeader((header) => header.__metadata__ = { vernier: "{" } as unknown as Json);
  await assertUserError(
    () => openArtifact(folder(nonsense)),
    /^Cannot parse JSON: .* in "vernier of tiny\/model\.safetensors"/,
  );
});

Deno.test("artifacts whose tensors do not fit their module are refused before any is read", async () => {
  const without = parts.tensors.filter(({ name }) => name !== "layers.1.mlp.gate.weight.clip.low.3");
  await assertUserError(
    async () => await openArtifact(folder(await artifactBytes(parts.description, without))),
    /^Expected a tensor "layers\.1\.mlp\.gate\.weight\.clip\.low\.3" but found none of that name, in/,
  );
  const misshapen = parts.tensors.map((tensor) =>
    tensor.name === "final.norm.weight" ? { ...tensor, shape: [4, 4] } : tensor
  );
  await assertUserError(
    async () => await openArtifact(folder(await artifactBytes(parts.description, misshapen))),
    /^Expected tensor "final\.norm\.weight" to be f32\[16\] but found f32\[4,4\], in/,
  );
  const foreign = withHeader((header) => Object.assign(header["final.norm.weight"] ?? {}, { dtype: "I32" }));
  await assertUserError(
    () => openArtifact(folder(foreign)),
    /^Expected values of F32, F16, I8 .* or U8 .* in tensor "final\.norm\.weight" but found I32\[16\]/,
  );
});

Deno.test("values that are not finite are refused when they are read", async () => {
  const infinite = parts.tensors.map((tensor) =>
    tensor.name === "final.norm.weight" ? { ...tensor, values: () => new Float32Array(16).fill(NaN, 5) } : tensor
  );
  const artifact = await openArtifact(folder(await artifactBytes(parts.description, infinite)));
  await assertUserError(
    () => artifact.read(["final.norm.weight"]),
    /^Expected finite values in tensor "final\.norm\.weight" but found NaN at position 5/,
  );
  await assertUserError(() => artifact.read(["x"]), /^Expected a tensor "x" but found none of that name/);
});

Deno.test("writeArtifact() takes tied tensors once, and refuses two values of one name", async () => {
  const tied = parts.tensors.filter(({ name }) => name === "embedding.weight.scale");
  assertEquals(tied.length, 2, "embed and head hold the same embedding");
  const [first] = tied,
    other = {
      ...first,
      name: "embedding.weight.scale",
      dtype: "f32",
      shape: [17, 1],
      values: () => new Float32Array(17),
    } as const;
  const error = await assertRejects(
    () => artifactBytes(parts.description, [...parts.tensors, other]),
    Error,
    'two different values to be stored as "embedding.weight.scale"',
  );
  assert(!(error instanceof UserError));
});
