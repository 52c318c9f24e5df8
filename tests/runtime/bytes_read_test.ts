import { assert, assertEquals } from "@std/assert";
import { openReference } from "../../backends/reference/backend.ts";
import { adaptersOf } from "../../compiler/adapters.ts";
import { artifactBytes } from "../../compiler/artifact/artifact.ts";
import { openSafetensors } from "../../compiler/frontends/safetensors.ts";
import { localFolder, memoryFolder } from "../../compiler/frontends/source.ts";
import type { BitConfig } from "../../ir/sites.ts";
import { openSession } from "../../runtime/session.ts";
import { countingFolder } from "../support/counting_folder.ts";
import { VARIANTS } from "../support/random_decoder.ts";
import { tinyArtifactParts, tinyRecipe } from "../support/tiny_artifact.ts";

const FILE = "model.safetensors";
const CONFIG = VARIANTS["tied, grouped queries"];

/** An artifact whose widths have adapters of their own, as compilations make it. */
async function artifactFile(): Promise<Uint8Array<ArrayBuffer>> {
  const recipe = tinyRecipe("weights");
  const adapters = adaptersOf("independent", { 2: 4, 3: 3, 4: 3, 5: 2, 6: 2, 7: 1, 8: 1 });
  const { description, tensors } = await tinyArtifactParts("weights", CONFIG, 7, {
    ...recipe,
    scheme: { ...recipe.scheme, adapters },
  });
  return await artifactBytes(description, tensors);
}

/** What an opened folder read of an artifact: bytes of the header, and tensors by name. */
async function readsOf(bytes: Uint8Array<ArrayBuffer>) {
  const { folder, take } = countingFolder(memoryFolder("tiny", new Map([[FILE, bytes]])));
  const { tensors } = await openSafetensors(await folder.open(FILE));
  const header = take().reduce((sum, { length }) => sum + length, 0);
  const nameAt = new Map([...tensors.values()].map(({ name, offset }) => [offset, name]));
  const sizeOf = (names: readonly string[]) =>
    names.reduce((sum, name) => sum + (tensors.get(name)?.length ?? Number.NaN), 0);
  /** Bytes, and names of tensors in the order of the alphabet; a read that is no whole tensor is called by its offset. */
  const taken = () => {
    const reads = take();
    const names = reads.filter(({ offset }) => offset >= header).map(({ offset }) =>
      nameAt.get(offset) ?? `@${offset}`
    );
    return { bytes: reads.reduce((sum, { length }) => sum + length, 0), names: names.sort() };
  };
  return { folder, taken, header, sizeOf, names: [...tensors.keys()].sort() };
}

/** What not every width reads: what was learned for one, and ranges of its groups. */
const isOfSome = (name: string) => /\.(clip|adapter|range)\./.test(name);
const isOfWidth = (name: string, width: number) =>
  new RegExp(`\\.clip\\.(high|low)\\.${width}$|\\.adapter\\.${width}\\.|\\.range\\.${rangeOf(width)}\\.`).test(name);
const isMaster = (name: string) => name.includes(".master.");

/** What the ranges of a width's groups are called. */
function rangeOf(width: number): string {
  const size = new Map(Object.entries(tinyRecipe("weights").scheme.groupSizes)).get(String(width)) ?? -1;
  return size === -1 ? "row" : String(size);
}

Deno.test("opening an artifact reads its header, what is not quantized, the master and what its width learned: no byte more", async () => {
  const { folder, taken, header, sizeOf, names } = await readsOf(await artifactFile());
  await using session = await openSession({ folder, backend: openReference(), precision: "3" });
  const expected = names.filter((name) => !isOfSome(name) || isOfWidth(name, 3)), opened = taken();
  assertEquals(opened, { bytes: header + sizeOf(expected), names: expected });
  assert(
    names.filter((name) => isOfWidth(name, 3)).length === 2 * 7 * 8,
    "clips, ranges, and codes and scales of factors, of all weights",
  );

  await session.prefill([1, 5, 3]);
  assertEquals(taken(), { bytes: 0, names: [] });

  // The master is what a switch starts from, and is not kept.
  await session.use("2");
  const changed = names.filter((name) => isMaster(name) || isOfWidth(name, 2));
  assertEquals(taken(), { bytes: sizeOf(changed), names: changed });

  const one = "layers.1.mlp.down.weight", mixture: BitConfig = { ...session.config, [one]: 4 };
  await session.use(mixture);
  const single = names.filter((name) => name.startsWith(`${one}.`) && (isMaster(name) || isOfWidth(name, 4)));
  assertEquals(taken(), { bytes: sizeOf(single), names: single });
  await session.use(mixture);
  assertEquals(taken(), { bytes: 0, names: [] });
});

Deno.test("opening a mixture reads for each weight what its own width learned", async () => {
  const { folder, taken, header, sizeOf, names } = await readsOf(await artifactFile());
  await using session = await openSession({ folder, backend: openReference(), precision: "mixed@2.5" });
  const widthOf = (name: string) => session.config[name.replace(/\.(clip|adapter|range)\..*$/, "")] ?? 16;
  assertEquals(new Set(Object.values(session.config)).size > 1, true, "a mixture");
  const expected = names.filter((name) => !isOfSome(name) || isOfWidth(name, widthOf(name)));
  assertEquals(taken(), { bytes: header + sizeOf(expected), names: expected });
});

Deno.test("a folder on disk is read in the same ranges as one in memory", async () => {
  const bytes = await artifactFile(), path = await Deno.makeTempDir();
  try {
    await Deno.writeFile(`${path}/${FILE}`, bytes);
    const ranges = await Promise.all(
      [memoryFolder("tiny", new Map([[FILE, bytes]])), await localFolder(path)].map(async (inner) => {
        const { folder, take } = countingFolder(inner);
        await using _ = await openSession({ folder, backend: openReference(), precision: "3" });
        return take();
      }),
    );
    assertEquals(ranges[0], ranges[1]);
  } finally {
    await Deno.remove(path, { recursive: true });
  }
});
