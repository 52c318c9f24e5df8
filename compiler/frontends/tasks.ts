/**
 * @file Multiple-choice tasks as local files: one JSON object per line, in the layouts that the data sets PIQA, ARC, HellaSwag and
 * WinoGrande have. Each item becomes pairs of a context and a continuation, with the prompts of the LM Evaluation Harness.
 */
import { quote, UserError } from "../../ir/errors.ts";
import { decodeText, isJsonObject, type JsonObject } from "./json.ts";

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
  readonly name: string;
  readonly items: readonly TaskItem[];
}

/** Reads fields of one line, with errors that name file, line and field. */
interface Row {
  text(key: string): string;
  texts(key: string): readonly string[];
  raw(key: string): unknown;
  object(key: string): Row;
  error(key: string, expected: string): UserError;
}

const LAYOUTS: Readonly<Record<TaskLayout, (row: Row) => TaskItem>> = {
  piqa: (row) => choices(`Question: ${row.text("goal")}\nAnswer:`, [row.text("sol1"), row.text("sol2")], label(row, 2)),
  arc: (row) => {
    const list = row.object("choices"), texts = list.texts("text"), labels = list.texts("label");
    const gold = labels.indexOf(row.text("answerKey"));
    if (labels.length !== texts.length) throw list.error("label", `${texts.length} labels, as many as texts`);
    if (gold < 0) throw row.error("answerKey", `one of ${labels.join(", ")}`);
    return choices(`Question: ${row.text("question")}\nAnswer:`, texts, gold);
  },
  hellaswag: (row) => {
    const endings = row.texts("endings").map(withoutMarkup);
    const context = `${row.text("activity_label")}: ${row.text("ctx_a")} ${capitalized(row.text("ctx_b"))}`;
    return choices(withoutMarkup(context), endings, label(row, endings.length));
  },
  winogrande: (row) => {
    const sentence = row.text("sentence"), at = sentence.indexOf("_"), answer = String(row.raw("answer"));
    if (at < 0) throw row.error("sentence", "a sentence with the gap _");
    if (answer !== "1" && answer !== "2") throw row.error("answer", "1 or 2");
    // Partial evaluation: what follows the gap is scored behind each way of filling it.
    const continuation = ` ${sentence.slice(at + 1).trim()}`,
      filled = ["option1", "option2"].map((key) => sentence.slice(0, at) + row.text(key));
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
function label(row: Row, count: number): number {
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
  const lines = decodeText(bytes, name).split("\n").flatMap((line, i) =>
    line.trim() === "" ? [] : [{ line, number: i + 1 }]
  );
  let found = layout;
  const items = lines.map(({ line, number }) => {
    const where = `line ${number} of ${quote(name)}`, json = parseLine(line, where);
    found ??= layoutOf(json, where);
    return LAYOUTS[found](rowOf(json, where, ""));
  });
  if (items.length > 0) return { name: found ?? name, items };
  throw new UserError({
    what: "Expected questions but found none",
    where: quote(name),
    mend: "give one JSON object per line",
  });
}

function parseLine(line: string, where: string): JsonObject {
  try {
    const json: unknown = JSON.parse(line);
    if (isJsonObject(json)) return json;
  } catch {
    // Reported below, like a line that is JSON but no object.
  }
  throw new UserError({
    what: `Expected a JSON object but found ${quote(line)}`,
    where,
    mend: "write one object per line",
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

function rowOf(json: JsonObject, where: string, path: string): Row {
  const raw = (key: string): unknown => Object.hasOwn(json, key) ? json[key] : undefined;
  const error = (key: string, expected: string) =>
    new UserError({
      what: `Expected ${quote(path + key)} to be ${expected} but found ${
        raw(key) === undefined ? "none" : quote(raw(key))
      }`,
      where,
      mend: "correct the field",
    });
  return {
    raw,
    error,
    text: (key) => {
      const value = raw(key);
      if (typeof value === "string") return value;
      throw error(key, "a string");
    },
    texts: (key) => {
      const value = raw(key);
      if (Array.isArray(value) && value.length > 1 && value.every((each) => typeof each === "string")) return value;
      throw error(key, "a list of two or more strings");
    },
    object: (key) => {
      const value = raw(key);
      if (isJsonObject(value)) return rowOf(value, where, `${path}${key}.`);
      throw error(key, "an object");
    },
  };
}
