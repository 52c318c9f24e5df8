/**
 * Vernier compiles a Transformer once and then runs it at any precision: one calibration yields one elastic artifact, from
 * which every weight width from 2 to 8 bits, settings such as W4A4, and every mix of them per layer are a switch away.
 *
 * ```ts
 * import { compileModel, createRunner, createSession, artifactSource, localFolder, openTokenizer, openWasm, readTexts } from "./mod.ts";
 *
 * const model = await localFolder("examples/models/world");
 * await using backend = await openWasm({ threads: 2 });
 * const { artifact } = await compileModel({
 *   model,
 *   backend,
 *   calibration: await readTexts("examples/models/world/calibration.jsonl"),
 *   evaluation: await readTexts("examples/models/world/evaluation.jsonl"),
 *   settings: { epochs: 1, sequences: 8 },
 *   report: (event) => event.kind === "result" && console.log(event.row.bits, event.row.perplexity),
 * });
 *
 * const tokenizer = await openTokenizer(model);
 * await using session = await createSession(artifactSource(artifact, createRunner(backend)), "mixed@3.5");
 * const ids: number[] = [];
 * for await (const id of session.generate(tokenizer.encode("In a small town"), { maxTokens: 20 })) {
 *   ids.push(id);
 *   if (ids.length === 10) await session.use("2"); // between two tokens, the cache is kept
 * }
 * console.log(tokenizer.decode(ids));
 * ```
 *
 * @module
 */

// Where computing happens.
export type {
  Backend,
  CompileOptions,
  Executable,
  HostArray,
  KernelText,
  MemoryPlan,
  MemoryRehearsal,
  MemoryUse,
  PlannedValue,
  Tensor,
  Traits,
  WorkSpace,
} from "./backends/backend.ts";
export type { AttentionKernel, DotKernel, KernelSpec, MapKernel, RowKernel, TopKKernel } from "./backends/kernel.ts";
export type { StoredBytes } from "./backends/stored.ts";
export { openReference } from "./backends/reference/backend.ts";
export { createRunner, type Runner, type Tensors } from "./backends/runner.ts";
export { type KernelProfile, openWasm, type WasmOptions } from "./backends/wasm/backend.ts";
export { openWebGpu, type WebGpuOptions } from "./backends/webgpu/backend.ts";
export type { TuningStore } from "./backends/webgpu/tuner.ts";

// Models and texts.
export { type Checkpoint, openCheckpoint } from "./compiler/frontends/checkpoint.ts";
export type { DecoderConfig, ModelType } from "./compiler/frontends/config.ts";
export { type CutOptions, parseTexts, readTexts, type TextData, tokenizeTexts } from "./compiler/frontends/dataset.ts";
export { decoderModule } from "./compiler/frontends/decoder.ts";
export type { JsonObject } from "./compiler/frontends/json.ts";
export type { RopeConfig, RopeScaling } from "./compiler/frontends/rope_config.ts";
export {
  type ByteRange,
  type ByteSource,
  type Folder,
  localFolder,
  memoryFolder,
} from "./compiler/frontends/source.ts";
export { parseTask, type Task, TASK_LAYOUTS, type TaskItem, type TaskLayout } from "./compiler/frontends/tasks.ts";
export { openTokenizer, type TextStream, type Tokenizer } from "./compiler/frontends/tokenizer.ts";

// Compiling.
export { type Artifact, openArtifact } from "./compiler/artifact/artifact.ts";
export type { ArtifactDescription, Provenance, Sensitivities } from "./compiler/artifact/description.ts";
export type { RefinedWidths } from "./compiler/artifact/refined.ts";
export {
  type BitSpec,
  type MixedSpec,
  parseBitSpec,
  parseBitSpecs,
  type UniformSpec,
  withPins,
} from "./compiler/bit_spec.ts";
export type { Budget } from "./compiler/budget.ts";
export type { Frontier, FrontierPoint } from "./compiler/allocate/frontier.ts";
export type { MeasuringMemory } from "./compiler/allocate/memory.ts";
export type { CalibrationProgress } from "./compiler/calibrate/calibrate.ts";
export type { CalibrationMemory, CalibrationPhase, HostMemory, PhaseMemory } from "./compiler/calibrate/memory.ts";
export {
  type CalibrationSettings,
  defaultSettings,
  type MergeKind,
  publishedSettings,
} from "./compiler/calibrate/settings.ts";
export { ADAPTER_KINDS, type AdapterKind, adaptersOf, type RankSchedule } from "./compiler/adapters.ts";
export type { ModelSite } from "./compiler/model_sites.ts";
export { parsePin, type Pin } from "./compiler/pins.ts";
export { type Plan, type PlanInput, planOf } from "./compiler/plan.ts";
export { changePlan, PLAN_CHANGES } from "./compiler/plan_changes.ts";
export {
  defaultRecipe,
  publishedRecipe,
  type Recipe,
  RECIPE_NAMES,
  type RecipeName,
  type Track,
  TRACKS,
} from "./compiler/recipe.ts";
export {
  type CompiledModel,
  type CompileEvent,
  compileModel,
  type CompileModelOptions,
} from "./runtime/compile_model.ts";
export type { CompilationMemory } from "./runtime/compilation_memory.ts";

// Running and measuring.
export { artifactSource } from "./runtime/artifact_source.ts";
export { checkpointSource } from "./runtime/checkpoint_source.ts";
export { answerTask, type TaskAnswer, type TaskOptions, type TaskScore } from "./runtime/choices.ts";
export { configurationOf, type Precision } from "./runtime/configuration.ts";
export type { ElasticSource } from "./runtime/elastic_source.ts";
export type { Scorer } from "./runtime/forward.ts";
export type { GenerateOptions } from "./runtime/generate.ts";
export { type Passage, windowsOf } from "./runtime/passages.ts";
export { type ResultRow, type ScoreSettings, scoreSettings, type Setting, settingOf } from "./runtime/result_row.ts";
export { createSession, openSession, type Session, type SessionOptions, type SessionStart } from "./runtime/session.ts";
export type { SequenceLength, SessionMemory } from "./runtime/session_memory.ts";
export type { EvaluationMemory } from "./runtime/evaluation_memory.ts";

// Programs and kernels as text.
export type { Dim, Symbols } from "./ir/dim.ts";
export { UserError, type UserProblem } from "./ir/errors.ts";
export type { Call, Derived, Module } from "./ir/module.ts";
export { printModule } from "./ir/module_text.ts";
export type { Attr, Attrs, Graph, Node, Output } from "./ir/node.ts";
export type { OpName } from "./ir/ops.ts";
export type { SiteRole } from "./ir/ops/state.ts";
export { parse } from "./ir/parse.ts";
export { print } from "./ir/print.ts";
export {
  type AdapterScheme,
  type AdapterSpace,
  type AdapterUse,
  type BitConfig,
  MASTER_KINDS,
  type MasterKind,
  type MasterScheme,
  type QuantizationScheme,
} from "./ir/sites.ts";
export type { DType, TensorType, Width } from "./ir/types.ts";
export {
  type CataloguedKernel,
  createCatalogue,
  type KernelCatalogue,
  type PlannedStep,
  planSteps,
  type StepSizes,
  usualSizes,
} from "./runtime/step_plan.ts";
export { VERSION } from "./runtime/version.ts";
