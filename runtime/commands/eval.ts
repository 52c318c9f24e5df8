/** @file Evaluating a checkpoint or an artifact on a text, at a list of settings. */
import { createRunner } from "../../backends/runner.ts";
import { parseBitSpec, parseBitSpecs } from "../../compiler/bit_spec.ts";
import { tokenizeTexts } from "../../compiler/frontends/dataset.ts";
import { openTokenizer } from "../../compiler/frontends/tokenizer.ts";
import { quote, UserError } from "../../ir/errors.ts";
import { EVALUATION_TOKENS, scoreSettings, settingOf } from "../result_row.ts";
import { vocabularyOf } from "../vocabulary.ts";
import { deviceText, openDevice } from "./devices.ts";
import { type Host, openModel, openTexts } from "./host.ts";
import { openSource } from "./models.ts";
import type { EvaluateOptions } from "./options.ts";
import { rowPrinter } from "./table.ts";

/**
 * Evaluates, and prints a row per setting.
 *
 * @throws {UserError} on anything wrong with what was given
 */
export async function evaluateCommand(options: EvaluateOptions, host: Host): Promise<void> {
  const specs = parseBitSpecs(options.bits), { progress } = host;
  if (options.model !== undefined && options.data === undefined) {
    throw new UserError({ what: "Expected a text to evaluate on but found none", mend: "give one with --data FILE" });
  }
  const folder = await openModel(options.model, host),
    data = options.data === undefined ? host.bundled.evaluation : await openTexts(options.data);
  const original = options.reference === undefined ? folder : await openModel(options.reference, host);
  await using backend = await openDevice(options);
  const runner = createRunner(backend), sourceOf = await openSource(folder, runner), full = parseBitSpec("16");
  const reference = (original === folder ? sourceOf : await openSource(original, runner))(full);
  const settings = specs.map((spec) => settingOf(sourceOf(spec), spec)),
    limit = Math.min(sourceOf(full).contextLimit, reference.contextLimit);
  const vocabSize = vocabularyOf(sourceOf(full).module);
  if (vocabularyOf(reference.module) !== vocabSize) {
    throw new UserError({
      what: `Expected a reference with a vocabulary of ${vocabSize} but found one of ${vocabularyOf(reference.module)}`,
      where: quote(original.name),
      mend: "give the model that this one was made of",
    });
  }
  const sequences = tokenizeTexts(data, await openTokenizer(folder), {
    maxTokens: Math.min(EVALUATION_TOKENS, limit),
    vocabSize,
  });
  progress.line(`Evaluating ${folder.name} on ${data.name}, ${deviceText(backend)}`);
  if (limit < EVALUATION_TOKENS && sequences.some(({ length }) => length === limit)) {
    progress.line(`Texts are cut to ${limit} tokens, all that the model's context allows`);
  }
  await scoreSettings({ reference, settings, sequences, report: rowPrinter(options.json, host.print) });
}
