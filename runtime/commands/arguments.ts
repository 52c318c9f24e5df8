/** @file Reading command lines by a table of options: everything that is not in the table is an error, with the table's words. */
import { quote, UserError } from "../../ir/errors.ts";

/** One option. */
export interface OptionRecord {
  /** What stands for its value in the help; options without one are switches. */
  readonly value?: string;
  readonly doc: string;
  /** Whether it may be given several times. */
  readonly many?: true;
}

/** Options by name, without the dashes. */
export type OptionTable = Readonly<Record<string, OptionRecord>>;

/** A command line, read. */
export interface Arguments {
  /** What is no option, in order. */
  readonly positionals: readonly string[];
  has(option: string): boolean;
  /** Value of an option, undefined where it is not given. */
  text(option: string): string | undefined;
  /** All values of an option that may be given several times, in order. */
  list(option: string): readonly string[];
  /** Value of an option that must be there. */
  required(option: string, mend: string): string;
  /** Value of an option as a whole number of `least` or more. */
  integer(option: string, least: number): number | undefined;
  /** Value of an option as one of a list. */
  oneOf<T extends string>(option: string, choices: readonly T[]): T | undefined;
}

/**
 * Reads `--name value`, `--name=value`, switches, and positionals; `--` ends the options.
 *
 * @param most positionals that the command takes
 * @throws {UserError} on options that are unknown, given twice, or without a value
 */
export function readArguments(args: readonly string[], table: OptionTable, most: number): Arguments {
  const positionals: string[] = [], values = new Map<string, string>(), lists = new Map<string, string[]>();
  for (let i = 0; i < args.length; i++) {
    const arg = args[i] ?? "";
    if (arg === "--") {
      positionals.push(...args.slice(i + 1));
      break;
    }
    if (!arg.startsWith("-") || arg === "-") {
      positionals.push(arg);
      continue;
    }
    const [, name = "", given] = /^--([^=]+)(?:=(.*))?$/s.exec(arg) ?? [],
      record = Object.hasOwn(table, name) ? table[name] : undefined;
    if (!record) throw unknownOption(arg, table);
    if (values.has(name) && !record.many) {
      throw new UserError({ what: `Expected --${name} once but found it twice`, mend: "give it once" });
    }
    if (record.value === undefined) {
      if (given !== undefined) {
        throw new UserError({ what: `Expected no value for --${name} but found ${quote(given)}` });
      }
      values.set(name, "");
    } else {
      const value = given ?? args[++i];
      if (value === undefined || given === undefined && value.startsWith("--")) {
        throw new UserError({
          what: `Expected a value for --${name} but found ${value === undefined ? "none" : quote(value)}`,
          mend: `write --${name} ${record.value}`,
        });
      }
      // Only a prompt may be empty; an empty path or list is a slip of the shell.
      if (value === "" && record.value !== "TEXT") {
        throw new UserError({
          what: `Expected a value for --${name} but found ""`,
          mend: `write --${name} ${record.value}`,
        });
      }
      values.set(name, value);
      lists.set(name, [...lists.get(name) ?? [], value]);
    }
  }
  if (positionals.includes("")) {
    throw new UserError({ what: 'Expected the path of a model but found ""', mend: "leave it out or name a folder" });
  }
  if (positionals.length > most) {
    throw new UserError({
      what: `Expected ${most === 1 ? "one argument" : `${most} arguments`} but found also ${quote(positionals[most])}`,
    });
  }
  const text = (option: string) => values.get(option);
  return {
    positionals,
    has: (option) => values.has(option),
    text,
    list: (option) => lists.get(option) ?? [],
    required: (option, mend) => {
      const value = text(option);
      if (value !== undefined) return value;
      throw new UserError({ what: `Expected --${option} but found none`, mend });
    },
    integer: (option, least) => {
      const value = text(option);
      if (value === undefined) return undefined;
      const number = Number(value);
      if (/^\d+$/.test(value) && Number.isSafeInteger(number) && number >= least) return number;
      throw new UserError({
        what: `Expected a whole number of ${least} or more for --${option} but found ${quote(value)}`,
      });
    },
    oneOf: (option, choices) => {
      const value = text(option), found = choices.find((choice) => choice === value);
      if (found !== undefined || value === undefined) return found;
      throw new UserError({ what: `Expected ${choices.join(", ")} for --${option} but found ${quote(value)}` });
    },
  };
}

function unknownOption(arg: string, table: OptionTable): UserError {
  const names = Object.keys(table).map((name) => `--${name}`).join(", ");
  return new UserError({ what: `Expected an option but found ${quote(arg)}`, mend: `use one of ${names}` });
}

const usualHead = (name: string, value?: string): string => `--${name}${value === undefined ? "" : ` ${value}`}`;

/** The options as lines of a help text; `head` writes what stands in front of each. */
export function optionLines(table: OptionTable, head = usualHead): readonly string[] {
  const heads = Object.entries(table).map(([name, { value }]) => head(name, value));
  const width = Math.max(...heads.map(({ length }) => length));
  return Object.values(table).map(({ doc }, i) => `  ${(heads[i] ?? "").padEnd(width)}  ${doc}`);
}
