/**
 * @file Multiple-choice tasks as local files: one JSON object per line, in the layouts that the data sets PIQA, ARC, HellaSwag and
 * WinoGrande have. Each item becomes pairs of a context and a continuation, with the prompts of the LM Evaluation Harness.
 */
import { quote, UserError } from "../../ir/errors.ts";
import { type Fields, fieldsOf } from "./fields.ts";
import { decodeText, type JsonObject, parseJsonLines } from "./json.ts";

/** The layouts that are known. `arc` serves both Easy and Challenge. */
export const TASK_LAYOUTS = ["piqa", "arc", "hellaswag", "winogrande"] as const;

/** See `TASK_LAYOUTS`. */
export type TaskLayout = typeof TASK_LAYOUTS[number];

/** One question. */
export interface TaskItem {
  /** What is scored for each choice: the continuation, given the context in front of it. */
  readonly pairs: readonly { readonly context: string; readonly continuation: string }[];
  /** Length of each choice in characters, which `acc_norm` divides by. */
  readonly lengths: readonly number[];
  /** Index of the right choice. */
  readonly gold: number;
}

/** A task. */
export interface Task {
  /** That of its layout. */
  readonly name: string;
  /** The file that it was read from. */
  readonly file: string;
  readonly items: readonly TaskItem[];
}

const LAYOUTS: Readonly<Record<TaskLayout, (row: Fields) => TaskItem>> = {
  piqa: (row) =>
    choices(`Question: ${row.string("goal")}\nAnswer:`, [row.string("sol1"), row.string("sol2")], label(row, 2)),
  arc: (row) => {
    const list = row.object("choices");
    if (!list) throw row.error("choices", "an object");
    const texts = textsOf(list, "text"), labels = textsOf(list, "label");
    const gold = labels.indexOf(row.string("answerKey"));
    if (labels.length !== texts.length) throw list.error("label", `${texts.length} labels, as many as texts`);
    if (gold < 0) throw row.error("answerKey", `one of ${labels.join(", ")}`);
    return choices(`Question: ${row.string("question")}\nAnswer:`, texts, gold);
  },
  hellaswag: (row) => {
    const endings = textsOf(row, "endings").map(withoutMarkup);
    const context = `${row.string("activity_label")}: ${row.string("ctx_a")} ${capitalized(row.string("ctx_b"))}`;
    return choices(withoutMarkup(context), endings, label(row, endings.length));
  },
  winogrande: (row) => {
    const sentence = row.string("sentence"), at = sentence.indexOf("_"), answer = String(row.raw("answer"));
    if (at < 0) throw row.error("sentence", "a sentence with the gap _");
    if (answer !== "1" && answer !== "2") throw row.error("answer", "1 or 2");
    // Partial evaluation: what follows the gap is scored behind each way of filling it.
    const continuation = ` ${sentence.slice(at + 1).trim()}`,
      filled = ["option1", "option2"].map((key) => sentence.slice(0, at) + row.string(key));
    return {
      pairs: filled.map((context) => ({ context, continuation })),
      lengths: filled.map(lengthOf),
      gold: Number(answer) - 1,
    };
  },
};

const lengthOf = (text: string): number => [...text].length;

const choices = (context: string, texts: readonly string[], gold: number): TaskItem => ({
  pairs: texts.map((text) => ({ context, continuation: ` ${text}` })),
  lengths: texts.map(lengthOf),
  gold,
});

/** The index of the right choice; data sets have it as a number or as a text. */
function label(row: Fields, count: number): number {
  const value = Number(row.raw("label"));
  if (Number.isInteger(value) && value >= 0 && value < count && row.raw("label") !== "") return value;
  throw row.error("label", `the index of the right choice, from 0 to ${count - 1}`);
}

/** Python's `str.capitalize`: the first character in upper case, all others in lower case. */
const capitalized = (text: string): string => {
  const [first = "", ...rest] = [...text];
  return first.toUpperCase() + rest.join("").toLowerCase();
};

/** HellaSwag's markup of its sources, removed as the harness does. */
const withoutMarkup = (text: string): string =>
  text.trim().replaceAll(" [title]", ". ").replace(/\[.*?\]/g, "").replaceAll("  ", " ");

/**
 * Parses a task.
 *
 * @param name the file's name, for messages and, unless `layout` is given, to find the layout by the fields of the first line
 * @throws {UserError} naming file, line and field of what is missing or of the wrong type
 */
export function parseTask(bytes: Uint8Array, name: string, layout?: TaskLayout): Task {
  let found = layout;
  const items = parseJsonLines(decodeText(bytes, name), name, "write one object per line").map(({ object, where }) => {
    found ??= layoutOf(object, where);
    return LAYOUTS[found](fieldsOf(object, name, "", where));
  });
  if (items.length > 0) return { name: found ?? name, file: name, items };
  throw new UserError({
    what: "Expected questions but found none",
    where: quote(name),
    mend: "give one JSON object per line",
  });
}

/** Fields that only one layout has. */
const SIGNS: readonly (readonly [string, TaskLayout])[] = [["goal", "piqa"], ["answerKey", "arc"], [
  "endings",
  "hellaswag",
], [
  "option1",
  "winogrande",
]];

function layoutOf(json: JsonObject, where: string): TaskLayout {
  const sign = SIGNS.find(([key]) => Object.hasOwn(json, key));
  if (sign) return sign[1];
  throw new UserError({
    what: `Expected a field ${SIGNS.map(([key]) => quote(key)).join(", ")} but found ${
      Object.keys(json).join(", ") || "none"
    }`,
    where,
    mend: `use the layout of ${TASK_LAYOUTS.join(", ")}`,
  });
}

/** A list of two or more strings. */
function textsOf(row: Fields, key: string): readonly string[] {
  const value = row.raw(key);
  if (Array.isArray(value) && value.length > 1 && value.every((each) => typeof each === "string")) return value;
  throw row.error(key, "a list of two or more strings");
}
