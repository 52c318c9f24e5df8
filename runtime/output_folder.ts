/** @file The folder that a compilation writes: the artifact, what belongs to it of the checkpoint, the plan and the kernels. */
import { ARTIFACT_FILE, type ArtifactTensor, isArtifact, writeArtifact } from "../compiler/artifact/artifact.ts";
import { writeAtomically } from "../compiler/artifact/atomic_write.ts";
import type { ArtifactDescription } from "../compiler/artifact/description.ts";
import { refinedSet } from "../compiler/artifact/refined.ts";
import { type BitSpec, configOf } from "../compiler/bit_spec.ts";
import { sizeModelOf, weightBytes } from "../compiler/budget.ts";
import { contextLimit } from "../compiler/frontends/decoder.ts";
import { parseDecoderConfig } from "../compiler/frontends/config.ts";
import { explain, type Folder, localFolder } from "../compiler/frontends/source.ts";
import { meanBits, modelSites } from "../compiler/model_sites.ts";
import { quote, UserError } from "../ir/errors.ts";
import { createCatalogue, type KernelCatalogue, planSteps, usualSizes } from "./step_plan.ts";
import { VERSION } from "./version.ts";

/** A folder that can be written, by this compilation alone until it is disposed of. */
export interface OutputFolder extends AsyncDisposable {
  readonly path: string;
  /** Where a calibration keeps its finished blocks. */
  readonly calibration: string;
  /**
   * Writes everything, the artifact itself last: where it is, the rest is.
   *
   * @param model the checkpoint, whose tokenizer and configuration are copied
   * @param specs settings to plan and to write the kernels of
   */
  save(
    model: Folder,
    description: ArtifactDescription,
    specs: readonly BitSpec[],
    tensors: readonly ArtifactTensor[],
  ): Promise<void>;
}

/** Files of the checkpoint that belong to the artifact as well. */
const COPIED = ["config.json", "tokenizer.json", "tokenizer_config.json"] as const;
const KERNELS = "kernels";
/** Locked by the compilation that writes to the folder; systems let go of it when a process ends, however it does. */
const LOCK_FILE = ".lock";
/** How often a lock is taken whose file has gone. */
const ATTEMPTS = 100;
/** What `writeAtomically` leaves where a run was killed while it wrote one of the folder's files. */
const HALF_WRITTEN =
  /^(model\.safetensors|plan\.json|loss\.jsonl|loss\.svg|config\.json|tokenizer\.json|tokenizer_config\.json)\.[0-9a-f]{8}\.tmp$/;

/**
 * Makes the folder, tries to write to it, and removes what a killed run left half written.
 *
 * @throws {UserError} if it cannot be written, another compilation is writing to it, or it holds a checkpoint, whose weights would be
 *   overwritten
 */
export async function openOutput(path: string): Promise<OutputFolder> {
  const failed = (error: unknown) => explain(error, "write", path);
  await Deno.mkdir(path, { recursive: true }).catch(failed);
  const folder = await localFolder(path);
  if (await folder.has(ARTIFACT_FILE) && !await isArtifact(folder)) {
    throw new UserError({
      what: `Expected an empty folder or an earlier artifact but found the checkpoint in ${quote(path)}`,
      mend: "give another folder to --out",
    });
  }
  const unlock = await lockFolder(path);
  try {
    for await (const { name } of Deno.readDir(path)) {
      if (HALF_WRITTEN.test(name)) await Deno.remove(`${path}/${name}`).catch(failed);
    }
  } catch (error) {
    await unlock();
    throw error;
  }
  const save: OutputFolder["save"] = async (model, description, specs, tensors) => {
    // Before anything is written: settings may be impossible.
    const catalogue = createCatalogue(), plan = planFile(description, specs, catalogue);
    const copies = new Map<string, Uint8Array>();
    for (const file of COPIED) if (await model.has(file)) copies.set(file, await model.read(file));
    if (await folder.has(ARTIFACT_FILE) && !await holds(folder, copies)) {
      // Beside the files of another model an earlier artifact would still run, and be wrong.
      await Deno.remove(`${path}/${ARTIFACT_FILE}`).catch(failed);
    }
    for (const file of COPIED) {
      const bytes = copies.get(file);
      if (bytes) await writeAtomically(`${path}/${file}`, [bytes]);
      else if (await folder.has(file)) await Deno.remove(`${path}/${file}`).catch(failed);
    }
    await writeKernels(`${path}/${KERNELS}`, catalogue);
    await writeAtomically(`${path}/plan.json`, [utf8(`${JSON.stringify(plan, null, 1)}\n`)]);
    await writeArtifact(`${path}/${ARTIFACT_FILE}`, description, tensors);
  };
  return { path, calibration: `${path}/.calibration`, save, [Symbol.asyncDispose]: unlock };
}

/** Locks a folder; returns what unlocks it. */
async function lockFolder(path: string): Promise<() => Promise<void>> {
  const file = `${path}/${LOCK_FILE}`;
  for (let attempt = 0; attempt < ATTEMPTS; attempt++) {
    const lock = await Deno.open(file, { write: true, create: true }).catch((error) => explain(error, "write", path));
    // Some file systems have no locks.
    if (!await lock.tryLock(true).catch(() => true)) {
      lock.close();
      throw new UserError({
        what: `Expected a folder of its own but found another compilation at work in ${quote(path)}`,
        mend: "wait for its end, or give another folder to --out",
      });
    }
    // One that ended in between has removed the file: its lock keeps nobody out.
    const { ino } = await lock.stat(),
      isThere = async () => (await Deno.stat(file).catch(() => undefined))?.ino === ino;
    if (await isThere()) {
      return async () => {
        if (await isThere()) await Deno.remove(file).catch(() => {});
        lock.close();
      };
    }
    lock.close();
  }
  throw new UserError({
    what: `Expected a folder of its own but found others who begin and end in ${quote(path)}`,
    mend: "give another folder to --out",
  });
}

/** Whether a folder has these of the copied files, and no others. */
async function holds(folder: Folder, copies: ReadonlyMap<string, Uint8Array>): Promise<boolean> {
  for (const file of COPIED) {
    const bytes = copies.get(file);
    if (await folder.has(file) !== (bytes !== undefined)) return false;
    if (bytes && !equalBytes(await folder.read(file), bytes)) return false;
  }
  return true;
}

const equalBytes = (a: Uint8Array, b: Uint8Array): boolean =>
  a.length === b.length && a.every((byte, i) => byte === b[i]);

/** What `plan.json` holds: widths, learned values of its own if it has any, memory and kernels of every setting; fills the catalogue. */
function planFile(
  { module, recipe, frontier, config, refined }: ArtifactDescription,
  specs: readonly BitSpec[],
  catalogue: KernelCatalogue,
): unknown {
  const sites = modelSites(module),
    limit = contextLimit(parseDecoderConfig(utf8(JSON.stringify(config)), "config.json"));
  const size = sizeModelOf(module, recipe.scheme);
  const settings = specs.map((spec) => {
    const widths = configOf(spec, sites, frontier, size), set = refinedSet(widths, sites, refined);
    return {
      bits: spec.text,
      ...(set === undefined ? {} : { refined: set }),
      meanBits: meanBits(widths, sites),
      bytes: weightBytes(widths, sites, recipe.scheme),
      sites: sites.map(({ name, role, parameters }) => ({ name, role, parameters, bits: widths[name] ?? 16 })),
      programs: planSteps({ module, scheme: recipe.scheme }, widths, usualSizes(limit), catalogue),
    };
  });
  const kernels = catalogue.kernels.map(({ name, spec }) => ({
    name,
    file: `${KERNELS}/${name}.wgsl`,
    kind: spec.kind,
    fuses: spec.fuses.split("\n"),
  }));
  return { version: 1, generator: `vernier ${VERSION}`, settings, kernels };
}

/** The folder of kernels, without those of an earlier compilation. */
async function writeKernels(path: string, { kernels }: KernelCatalogue): Promise<void> {
  const failed = (error: unknown) => explain(error, "write", path);
  await Deno.mkdir(path, { recursive: true }).catch(failed);
  for await (const { name } of Deno.readDir(path)) {
    if (name.endsWith(".wgsl") || name.endsWith(".tmp")) await Deno.remove(`${path}/${name}`).catch(failed);
  }
  for (const { name, wgsl } of kernels) await writeAtomically(`${path}/${name}.wgsl`, [utf8(wgsl)]);
}

const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text);
