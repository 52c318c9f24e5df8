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
export type { Backend } from "./backends/backend.ts";
export { openReference } from "./backends/reference/backend.ts";
export { createRunner, type Runner } from "./backends/runner.ts";
export { openWasm, type WasmOptions } from "./backends/wasm/backend.ts";
export { openWebGpu, type WebGpuOptions } from "./backends/webgpu/backend.ts";

// Models and texts.
export { type Checkpoint, openCheckpoint } from "./compiler/frontends/checkpoint.ts";
export { parseTexts, readTexts, type TextData, tokenizeTexts } from "./compiler/frontends/dataset.ts";
export { decoderModule } from "./compiler/frontends/decoder.ts";
export { type Folder, localFolder, memoryFolder } from "./compiler/frontends/source.ts";
export { openTokenizer, type Tokenizer } from "./compiler/frontends/tokenizer.ts";

// Compiling.
export { type Artifact, openArtifact } from "./compiler/artifact/artifact.ts";
export { type BitSpec, parseBitSpec, parseBitSpecs, withPins } from "./compiler/bit_spec.ts";
export type { MeasuringMemory } from "./compiler/allocate/memory.ts";
export type { CalibrationMemory } from "./compiler/calibrate/memory.ts";
export { type CalibrationSettings, defaultSettings, publishedSettings } from "./compiler/calibrate/settings.ts";
export { type AdapterKind, adaptersOf, type RankSchedule } from "./compiler/adapters.ts";
export { parsePin, type Pin } from "./compiler/pins.ts";
export { type Plan, planOf } from "./compiler/plan.ts";
export { changePlan, PLAN_CHANGES } from "./compiler/plan_changes.ts";
export { defaultRecipe, publishedRecipe, type Recipe, type RecipeName, type Track } from "./compiler/recipe.ts";
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
export type { ElasticSource } from "./runtime/elastic_source.ts";
export { type ResultRow, type ScoreSettings, scoreSettings, type Setting, settingOf } from "./runtime/result_row.ts";
export { createSession, openSession, type Session, type SessionOptions, type SessionStart } from "./runtime/session.ts";
export type { SequenceLength, SessionMemory } from "./runtime/session_memory.ts";
export type { EvaluationMemory } from "./runtime/evaluation_memory.ts";

// Programs as text.
export type { Module } from "./ir/module.ts";
export { printModule } from "./ir/module_text.ts";
export type { Graph } from "./ir/node.ts";
export { parse } from "./ir/parse.ts";
export { print } from "./ir/print.ts";
export { UserError } from "./ir/errors.ts";
export { VERSION } from "./runtime/version.ts";
