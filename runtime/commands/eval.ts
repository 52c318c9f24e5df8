/** @file Evaluating a checkpoint or an artifact on a text, at a list of settings. */
import { createRunner } from "../../backends/runner.ts";
import { parseBitSpec, parseBitSpecs, withPins } from "../../compiler/bit_spec.ts";
import { type TextData, tokenizeTexts } from "../../compiler/frontends/dataset.ts";
import { readFile } from "../../compiler/frontends/source.ts";
import { parseTask, type Task, TASK_LAYOUTS } from "../../compiler/frontends/tasks.ts";
import { openTokenizer, type Tokenizer } from "../../compiler/frontends/tokenizer.ts";
import { quote, UserError } from "../../ir/errors.ts";
import { answerTask } from "../choices.ts";
import { type Passage, windowsOf } from "../passages.ts";
import { cutNote, EVALUATION_TOKENS, scoreSettings, settingOf } from "../result_row.ts";
import { vocabularyOf } from "../vocabulary.ts";
import { deviceText, openDevice } from "./devices.ts";
import { type Host, openModel, openTexts } from "./host.ts";
import { evaluationMemoryText } from "./memory_text.ts";
import { openSource } from "./models.ts";
import type { EvaluateOptions } from "./options.ts";
import { rowPrinter, taskPrinter } from "./table.ts";

/**
 * Evaluates, and prints a row per setting.
 *
 * @throws {UserError} on anything wrong with what was given
 */
export async function evaluateCommand(options: EvaluateOptions, host: Host): Promise<void> {
  const specs = withPins(parseBitSpecs(options.bits), options.pins), { progress } = host;
  if (options.model !== undefined && options.data === undefined && options.tasks.length === 0) {
    throw new UserError({
      what: "Expected a text to evaluate on but found none",
      mend: "give one with --data FILE, or questions with --tasks FILE",
    });
  }
  const folder = await openModel(options.model, host),
    ownData = options.tasks.length > 0 ? undefined : host.bundled.evaluation,
    data = options.data === undefined ? ownData : await openTexts(options.data);
  const tasks = await Promise.all(options.tasks.map(readTask));
  const original = options.reference === undefined ? folder : await openModel(options.reference, host);
  await using backend = await openDevice({ ...options, note: progress.line });
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
  const tokenizer = await openTokenizer(folder);
  if (data) {
    const passages = passagesOf(data, tokenizer, { ...options, limit, vocabSize });
    progress.line(`Evaluating ${folder.name} on ${data.name}, ${deviceText(backend)}${passages.note}`);
    await scoreSettings({
      reference,
      settings,
      sequences: passages.list,
      planned: (memory) => progress.line(evaluationMemoryText(memory)),
      report: rowPrinter(options.json, host.print),
    });
  }
  if (tasks.length === 0) return;
  progress.line(`Answering ${tasks.map(({ name, items }) => `${items.length} questions of ${name}`).join(", ")}`);
  const print = taskPrinter(options.json, host.print);
  // Easy and Challenge have one layout.
  const labelOf = ({ name, file }: Task): string =>
    tasks.filter((other) => other.name === name).length > 1 ? file.replace(/^.*[/\\]/, "") : name;
  for (const { spec, ...scorer } of settings) {
    for (const task of tasks) {
      progress.status(`${task.name} at ${spec.text}`);
      const score = await answerTask(task, { scorer, tokenizer, limit });
      progress.end();
      print(spec.text, labelOf(task), score);
    }
  }
}

interface PassageOptions extends Pick<EvaluateOptions, "protocol" | "window" | "stride"> {
  /** Most tokens of a sequence. */
  readonly limit: number;
  readonly vocabSize: number;
}

/** The sequences of a text by a protocol, and what there is to say about them. */
function passagesOf(
  data: TextData,
  tokenizer: Tokenizer,
  { protocol, window, stride, limit, vocabSize }: PassageOptions,
): { readonly list: readonly (Int32Array | Passage)[]; readonly note: string } {
  if (protocol === "texts") {
    for (const [name, value] of Object.entries({ window, stride })) {
      if (value === undefined) continue;
      throw new UserError({ what: `Expected --protocol wikitext beside --${name} but found texts`, mend: "add it" });
    }
    const maxTokens = Math.min(EVALUATION_TOKENS, limit),
      list = tokenizeTexts(data, tokenizer, { maxTokens, vocabSize });
    const cut = cutNote(data, list, maxTokens);
    return {
      list,
      note: cut && `; ${cut}${limit <= EVALUATION_TOKENS ? ", all that the model's context allows" : ""}`,
    };
  }
  const size = window ?? Math.min(WIKITEXT_TOKENS, limit), step = stride ?? size;
  if (size > limit || step > size) {
    throw new UserError({
      what: size > limit
        ? `Expected a window of at most ${limit} tokens, the model's context, but found ${size}`
        : `Expected a stride of at most ${size} tokens, the window, but found ${step}`,
      where: size > limit ? "--window" : "--stride",
    });
  }
  const joined: TextData = { ...data, kind: "document", texts: [data.texts.join("\n\n")] };
  const [ids = new Int32Array()] = tokenizeTexts(joined, tokenizer, { maxTokens: Infinity, vocabSize });
  return { list: windowsOf(ids, size, step), note: `, windows of ${size} tokens every ${step}` };
}

/** Tokens per window that papers use. */
const WIKITEXT_TOKENS = 2048;

/** A task of `--tasks`: a path, or the layout's name, an equals sign and a path. */
async function readTask(text: string): Promise<Task> {
  const layout = TASK_LAYOUTS.find((name) => text.startsWith(`${name}=`));
  const path = layout ? text.slice(layout.length + 1) : text;
  return parseTask(await readFile(path), path, layout);
}
