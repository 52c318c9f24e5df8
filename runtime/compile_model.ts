/**
 * @file The whole way from a checkpoint to an elastic artifact: read, calibrate, allocate, write, evaluate. The command line
 * and programs that import the library take it alike.
 */
import type { Backend } from "../backends/backend.ts";
import { createRunner } from "../backends/runner.ts";
import { measureFrontier } from "../compiler/allocate/measured_frontier.ts";
import { tiedFrontier, tiesOf } from "../compiler/allocate/ties.ts";
import { isRehearsed, mixturesOf, predictMixtures, rehearsalSettings } from "../compiler/allocate/predict.ts";
import { allocationItems, measureSensitivities } from "../compiler/allocate/sensitivity.ts";
import { type Artifact, type ArtifactTensor, isArtifact, openArtifact } from "../compiler/artifact/artifact.ts";
import type { ArtifactDescription } from "../compiler/artifact/description.ts";
import { learnedName } from "../compiler/artifact/refined.ts";
import { type BitSpec, parseBitSpecs, withPins } from "../compiler/bit_spec.ts";
import type { MasterKind } from "../ir/sites.ts";
import type { Pin } from "../compiler/pins.ts";
import { calibrate, type CalibrationProgress } from "../compiler/calibrate/calibrate.ts";
import { openFolderStore } from "../compiler/calibrate/folder_store.ts";
import { createPrograms } from "../compiler/calibrate/programs.ts";
import { type CalibrationSettings, checkCalibrationSettings } from "../compiler/calibrate/settings.ts";
import { type CallStore, memoryStore } from "../compiler/calibrate/store.ts";
import { type Checkpoint, openCheckpoint } from "../compiler/frontends/checkpoint.ts";
import { type TextData, tokenizeTexts } from "../compiler/frontends/dataset.ts";
import { contextLimit, decoderModule } from "../compiler/frontends/decoder.ts";
import { decoderSource } from "../compiler/frontends/decoder_source.ts";
import { parseJsonObject } from "../compiler/frontends/json.ts";
import { type Folder, localFolder } from "../compiler/frontends/source.ts";
import type { DecoderConfig } from "../compiler/frontends/config.ts";
import { openTokenizer } from "../compiler/frontends/tokenizer.ts";
import { modelSites } from "../compiler/model_sites.ts";
import { elasticModule, structureModule } from "../compiler/pipeline.ts";
import { type Plan, planOf } from "../compiler/plan.ts";
import { changePlan, checkMerge } from "../compiler/plan_changes.ts";
import { defaultRecipe, type Recipe, RECIPE_NAMES, type RecipeName, type Track, TRACKS } from "../compiler/recipe.ts";
import { quote, UserError } from "../ir/errors.ts";
import type { Module } from "../ir/module.ts";
import { concreteShape, type TensorType } from "../ir/types.ts";
import { artifactSource } from "./artifact_source.ts";
import { checkpointSource } from "./checkpoint_source.ts";
import { type CompilationMemory, compilationMemory } from "./compilation_memory.ts";
import type { EvaluationMemory } from "./evaluation_memory.ts";
import { chooseRotation } from "./choose_rotation.ts";
import { type HeldOut, holdOut } from "./hold_out.ts";
import { type LossCurve, openLossLog } from "./loss_log.ts";
import { memoryArtifact } from "./memory_artifact.ts";
import { openOutput, type OutputFolder } from "./output_folder.ts";
import { type PartStore, refineAsked, type RefinedMixture } from "./refined_mixtures.ts";
import { checkAsked, checkSettings, tableSettings, trackOf } from "./precision_table.ts";
import { cutNote, EVALUATION_TOKENS, type ResultRow, scoreSettings, settingOf } from "./result_row.ts";
import { VERSION } from "./version.ts";
import { sha256, verifyCheckpoint } from "./verify_checkpoint.ts";

/** What to compile, and how. */
export interface CompileModelOptions {
  /** A Hugging Face folder; see `localFolder` and `memoryFolder`. */
  readonly model: Folder;
  /** Where to compute; a function is called once everything that was given is known to be in order. */
  readonly backend: Backend | (() => Promise<Backend>);
  /** Texts to calibrate on; see `readTexts`. */
  readonly calibration: TextData;
  /** Texts to evaluate on; unless given, the end of the calibration text is held out. */
  readonly evaluation?: TextData;
  /** The settings that are asked for, such as `mixed`; they decide which widths are calibrated. `mixed` unless given. */
  readonly bits?: string;
  /** Folder to save to. Without one the artifact stays in memory. */
  readonly out?: string;
  /** A natural number; 0 unless given. */
  readonly seed?: number;
  /** The method: `vernier`, what measures best, unless given; `quept` is the published one. */
  readonly recipe?: RecipeName;
  /** What the calibration serves; what `bits` asks for unless given. */
  readonly track?: Track;
  /** How the copy of the weights is stored that all widths are made of; what the recipe says unless given. */
  readonly master?: MasterKind;
  /** What budgets of mixed precision count bits by; `parameters` unless given, `sites` is the unweighted form of the paper. */
  readonly weighting?: "parameters" | "sites";
  /** Give linears that read one value (q/k/v, gate/up) one width in mixtures. */
  readonly tie?: boolean;
  /** Widths of sites that win over every setting; see `parsePin`. */
  readonly pins?: readonly Pin[];
  /** What differs from the recipe, as texts `NAME=VALUE`; see `PLAN_CHANGES`. */
  readonly changes?: readonly string[];
  /** What differs from the recipe's settings of the calibration. */
  readonly settings?: Partial<CalibrationSettings>;
  readonly report?: (event: CompileEvent) => void;
}

/** What happens while a model is compiled. */
export type CompileEvent =
  /** What was given is in order, and work begins. */
  | { readonly kind: "start" }
  /** Something worth knowing: a sentence without a final period. */
  | { readonly kind: "note"; readonly text: string }
  /** What the calibration and the measuring behind it are going to need. */
  | { readonly kind: "memory"; readonly memory: CompilationMemory }
  /** What the evaluation for the table is going to need. */
  | { readonly kind: "evaluation"; readonly memory: EvaluationMemory }
  /** A rehearsal is the short calibration that mixtures are predicted by. */
  | { readonly kind: "calibration" | "rehearsal"; readonly progress: CalibrationProgress }
  /** A mixture learns on its own. */
  | {
    readonly kind: "refinement";
    /** Which of how many times that a mixture learns this is. */
    readonly done: number;
    readonly all: number;
    readonly progress: CalibrationProgress;
  }
  /** How many of all (site, width) pairs have been measured. */
  | { readonly kind: "sensitivity" | "allocation"; readonly done: number; readonly all: number }
  | { readonly kind: "result"; readonly row: ResultRow };

/** A compiled model. */
export interface CompiledModel {
  /** The elastic artifact: on disk, or in memory where nothing was saved. */
  readonly artifact: Artifact;
  /** Full precision, every calibrated width, and what was asked for. */
  readonly rows: readonly ResultRow[];
}

/**
 * Compiles a checkpoint to an elastic artifact and evaluates it. Equal options on an equal backend give the same bytes. With
 * `out`, finished blocks are kept in `<out>/.calibration` until the end, and a call with the same options goes on from them.
 *
 * @throws {UserError} on anything wrong with what was given, before anything is written
 */
export async function compileModel(options: CompileModelOptions): Promise<CompiledModel> {
  const { model, seed = 0, out, report = () => {} } = options;
  const asked = parseBitSpecs(options.bits ?? "mixed"), pins = options.pins ?? [], specs = withPins(asked, pins);
  checkOptions(options);
  if (await isArtifact(model)) {
    throw new UserError({
      what: `Expected a checkpoint but found the artifact in ${quote(model.name)}`,
      mend: "give the checkpoint that it was made of",
    });
  }
  const checkpoint = await openCheckpoint(model), { config } = checkpoint;
  const { settings: wanted, ...plan } = planFor(options, specs, config);
  checkCalibrationSettings(wanted);
  checkMerge({ ...plan, settings: wanted });
  checkSettings(specs, plan.recipe);
  const texts: HeldOut = options.evaluation
    ? { calibration: options.calibration, evaluation: options.evaluation }
    : holdOut(options.calibration);
  const tokenizer = await openTokenizer(model), cut = { vocabSize: config.vocabSize };
  const sequences = tokenizeTexts(texts.calibration, tokenizer, {
    ...cut,
    maxTokens: wanted.tokens,
    maxSequences: wanted.sequences,
  });
  // Larger batches would be padding.
  const settings = { ...wanted, batch: Math.min(wanted.batch, sequences.length) };
  const maxTokens = Math.min(EVALUATION_TOKENS, contextLimit(config));
  const evaluation = tokenizeTexts(texts.evaluation, tokenizer, { ...cut, maxTokens });
  const module = decoderModule(config);
  checkAsked(specs, elasticModule(module, plan.recipe), plan.recipe, options.weighting === "sites");
  const modelSha256 = await verifyCheckpoint(checkpoint, module);
  const dataSha256 = await sha256(new TextEncoder().encode(texts.calibration.texts.join("\n")));
  const tokensSha256 = await sha256(Int32Array.from(sequences.flatMap((ids) => [ids.length, ...ids])));

  const backend = typeof options.backend === "function" ? await options.backend() : options.backend;
  // From here on files are written.
  await using output = out === undefined ? undefined : await openOutput(out);
  report({ kind: "start" });
  const recipe = plan.chooseRotation
    ? await chosenBasis({ checkpoint, sequences, settings, backend, report }, plan.recipe)
    : plan.recipe;
  // What mixtures learn on their own is no matter of what all widths learn.
  const { refine: _, ...common } = settings;
  const { weighting = "parameters", tie = false } = options;
  const fingerprint = {
    version: VERSION,
    model: modelSha256,
    configuration: { ...config },
    // Texts as the tokenizer and their cut make them.
    data: tokensSha256,
    settings: common,
    recipe,
    seed,
    // Mixtures that a calibration draws are found with these.
    ...(isRehearsed(settings) ? { allocation: { weighting, tie } } : {}),
    backend: backend.name,
  };
  const saved = output && await openFolderStore(output.calibration, fingerprint),
    store: CallStore = saved ?? memoryStore();
  const partStore: PartStore = async (name, what = {}) =>
    output ? await openFolderStore(`${output.calibration}/${name}`, { ...fingerprint, ...what }) : memoryStore();
  if (texts.note) report({ kind: "note", text: texts.note });
  const shortened = cutNote(texts.evaluation, evaluation, maxTokens);
  if (shortened) report({ kind: "note", text: `Evaluating: ${shortened}` });
  if (saved && saved.finished > 0) {
    report({
      kind: "note",
      text: `Going on from an interrupted run: ${saved.finished} of ${module.calls.length} calls are finished`,
    });
  }

  const losses = output && await openLossLog(output.path);
  const { refined, ...learned } = await learn({
    checkpoint,
    module,
    recipe,
    settings,
    sequences,
    store,
    rehearsal: isRehearsed(settings) ? await partStore("rehearsal") : undefined,
    specs,
    partStore,
    backend,
    seed,
    weighting,
    tie,
    begins: (curve) => losses?.begin(curve),
    report: (event) => {
      if ("progress" in event) losses?.add(event.progress);
      report(event);
    },
  });
  await losses?.draw();
  const description: ArtifactDescription = {
    ...learned,
    ...(refined.length > 0 ? { refined: refined.map(({ widths }) => widths) } : {}),
    recipe,
    config: parseJsonObject(await model.read("config.json"), `${model.name}/config.json`),
    provenance: { seed, dataSha256, version: VERSION, settings: { ...settings } },
  };
  const tensors = await artifactTensors(module, store, refined);
  const artifact = output
    ? await saveAndOpen(output, model, description, specs, tensors)
    : memoryArtifact(model.name, description, tensors);

  const runner = createRunner(backend), elastic = artifactSource(artifact, runner);
  const original = checkpointSource(checkpoint, runner, defaultRecipe("weights", seed));
  const [full, ...usual] = tableSettings(asked, recipe), others = withPins(usual, pins), rows: ResultRow[] = [];
  await scoreSettings({
    reference: original,
    settings: [settingOf(original, full), ...others.map((spec) => settingOf(elastic, spec))],
    sequences: evaluation,
    planned: (memory) => report({ kind: "evaluation", memory }),
    report: (row) => {
      rows.push(row);
      report({ kind: "result", row });
    },
  });
  // As long as calls of other mixtures are kept, their losses are, too.
  losses?.close();
  await saved?.remove();
  return { artifact, rows };
}

/** Refuses what types forbid, for callers without them. */
function checkOptions(
  { seed = 0, recipe = "vernier", track = "weights", weighting = "parameters" }: CompileModelOptions,
) {
  const choices = [
    ["recipe", recipe, RECIPE_NAMES],
    ["track", track, TRACKS],
    ["weighting", weighting, ["parameters", "sites"]],
  ] as const;
  for (const [name, value, known] of choices) {
    if ((known as readonly string[]).includes(value)) continue;
    throw new UserError({
      what: `Expected ${known.join(", ")} but found ${quote(value)}`,
      where: `the option ${quote(name)}`,
    });
  }
  if (Number.isSafeInteger(seed) && seed >= 0) return;
  throw new UserError({ what: `Expected a natural number but found ${quote(seed)}`, where: 'the option "seed"' });
}

/** The named plan with the changes that were asked for, cut to what the model can take. */
function planFor(options: CompileModelOptions, specs: readonly BitSpec[], config: DecoderConfig): Plan {
  const track = options.track ?? trackOf(specs), width = config.hiddenSize;
  const named = planOf({ name: options.recipe ?? "vernier", track, seed: options.seed ?? 0, width });
  const master = options.master === undefined ? [] : [`master=${options.master}`];
  const { settings, ...plan } = changePlan(named, [...master, ...options.changes ?? []]);
  const changed = { ...settings, ...options.settings };
  return { ...plan, settings: { ...changed, tokens: Math.min(changed.tokens, contextLimit(config)) } };
}

/** The recipe in the basis that rounding to nearest prefers. */
async function chosenBasis(
  { checkpoint, sequences, settings, backend, report }: Pick<
    Learning,
    "checkpoint" | "sequences" | "settings" | "backend" | "report"
  >,
  recipe: Recipe,
): Promise<Recipe> {
  const runner = createRunner(backend), open = (own: Recipe) => checkpointSource(checkpoint, runner, own);
  const { rotate, ratio } = await chooseRotation({ recipe, open, sequences, tokens: settings.measureTokens });
  const found = `${ratio.toFixed(2)} times the divergence of rounding to nearest at 3 to 5 bits`;
  report({ kind: "note", text: `${rotate ? "Rotated" : "Not rotated"}: rotations give ${found}` });
  return { ...recipe, rotate };
}

interface Learning {
  readonly checkpoint: Checkpoint;
  readonly module: Module;
  readonly recipe: Recipe;
  readonly settings: CalibrationSettings;
  readonly sequences: readonly Int32Array[];
  readonly store: CallStore;
  /** Of the calibration that mixtures are predicted by; undefined where none are drawn. */
  readonly rehearsal: CallStore | undefined;
  /** What was asked for: its mixtures are refined. */
  readonly specs: readonly BitSpec[];
  readonly partStore: PartStore;
  readonly backend: Backend;
  readonly seed: number;
  readonly weighting: "parameters" | "sites";
  readonly tie: boolean;
  /** Hears what learns next. */
  readonly begins: (curve: LossCurve) => void;
  readonly report: (event: CompileEvent) => void;
}

/** What was learned. */
interface Learned extends Pick<ArtifactDescription, "module" | "sensitivities" | "frontier"> {
  /** What mixtures learned on their own, by their numbers. */
  readonly refined: readonly RefinedMixture[];
}

/** Calibrates every call into the store, and allocates bits. */
async function learn(learning: Learning): Promise<Learned> {
  const { checkpoint, module, recipe, settings, sequences, store, rehearsal, backend, seed, weighting, tie } = learning,
    { specs, partStore, begins, report } = learning;
  const noted = { note: (text: string) => report({ kind: "note", text }) };
  const structure = structureModule(module, recipe), elastic = elasticModule(module, recipe, noted);
  const tensorName = decoderSource(checkpoint.config), programs = createPrograms(backend);
  const read = async (name: string, { shape }: TensorType) =>
    (await checkpoint.tensor(tensorName(name), concreteShape(shape))).data;
  const given = { programs, structure, elastic, recipe, sequences, settings, seed }, tokens = settings.measureTokens;
  const weights = modelSites(elastic).filter(({ role }) => role === "weight").map(({ name }) => name);
  const request = { weighting, ...(tie ? { ties: tiesOf(elastic, weights) } : {}) };
  const measured = (done: number, all: number) => report({ kind: "sensitivity", done, all });
  report({ kind: "memory", memory: await compilationMemory(given) });
  const [first, rest] = rehearsalSettings(settings);
  if (rehearsal) begins({ stage: "rehearsal" });
  const predicted = rehearsal && await predictMixtures({
    ...given,
    settings: first,
    load: read,
    store: rehearsal,
    report: (progress) => report({ kind: "rehearsal", progress }),
    measured,
  }, request);
  const rehearsed = predicted && { settings: rest, begun: rehearsal, mixtureOf: mixturesOf(predicted) };
  begins({});
  const load = await calibrate({
    ...given,
    ...rehearsed,
    load: read,
    store,
    report: (progress) => report({ kind: "calibration", progress }),
  });
  const common = { ...given, load, store, tokens };
  const sensitivities = await measureSensitivities({ ...common, report: measured });
  const items = allocationItems(elastic, sensitivities);
  const searched = await measureFrontier({
    ...common,
    report: (done, all) => report({ kind: "allocation", done, all }),
  }, { items, ...request });
  const mixed = specs.filter((spec) => spec.kind === "mixed");
  if (settings.refine === 0 || mixed.length === 0) {
    return { module: elastic, sensitivities, frontier: searched, refined: [] };
  }
  const { frontier, refined } = await refineAsked({
    ...given,
    load,
    begun: store,
    specs: mixed,
    frontier: searched,
    others: [tiedFrontier(items, request), ...(predicted ? [predicted] : [])],
    partStore,
    begins,
    report: (done, all, progress) => report({ kind: "refinement", done, all, progress }),
    ...noted,
  });
  return { module: elastic, sensitivities, frontier, refined };
}

/** What the artifact holds; values in files stay there until they are asked for. */
async function artifactTensors(
  { calls }: Module,
  store: CallStore,
  refined: readonly RefinedMixture[],
): Promise<readonly ArtifactTensor[]> {
  const all: ArtifactTensor[] = [];
  for (const [index, { prefix }] of calls.entries()) {
    const common = await store.tensors(index);
    if (!common) throw new Error(`Internal error in compileModel: the call "${prefix}" is not calibrated`);
    all.push(...common);
    for (const [set, mixture] of refined.entries()) {
      // Calls that learn nothing are not in there.
      const own = await mixture.store.tensors(index) ?? [];
      all.push(...own.map((tensor) => ({ ...tensor, name: learnedName(tensor.name, set) })));
    }
  }
  return all;
}

async function saveAndOpen(
  output: OutputFolder,
  model: Folder,
  description: ArtifactDescription,
  specs: readonly BitSpec[],
  tensors: readonly ArtifactTensor[],
): Promise<Artifact> {
  await output.save(model, description, specs, tensors);
  return await openArtifact(await localFolder(output.path));
}
