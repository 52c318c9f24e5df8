/** @file The command line: its commands with their options, what each option means, and the help text that follows from it. */
import type { CalibrationSettings } from "../../compiler/calibrate/settings.ts";
import { MASTER_KINDS, type MasterKind } from "../../ir/sites.ts";
import { parsePin, type Pin } from "../../compiler/pins.ts";
import { PLAN_CHANGES } from "../../compiler/plan_changes.ts";
import { RECIPE_NAMES, type RecipeName, type Track, TRACKS } from "../../compiler/recipe.ts";
import { type Arguments, optionLines, type OptionTable, readArguments } from "./arguments.ts";
import { type DeviceName, DEVICES } from "./devices.ts";

/** What every command that runs a model needs. */
export interface DeviceOptions {
  readonly device: DeviceName;
  /** Threads of the WebAssembly backend; as many as cores unless given. */
  readonly threads?: number;
}

/** `compile.ts [MODEL]`: no model is the bundled one. */
export interface CompileOptions extends DeviceOptions, PinOptions {
  readonly kind: "compile";
  readonly model?: string;
  readonly bits: string;
  readonly calibration?: string;
  readonly evaluation?: string;
  readonly out?: string;
  readonly seed: number;
  readonly recipe: RecipeName;
  readonly track?: Track;
  readonly master?: MasterKind;
  /** Changes of the recipe, `NAME=VALUE`. */
  readonly changes: readonly string[];
  readonly weighting: "parameters" | "sites";
  /** Whether linears that read one value take one width. */
  readonly tie: boolean;
  readonly settings: Partial<CalibrationSettings>;
  readonly json: boolean;
}

/** `texts`: every text on its own; `wikitext`: all of them one after the other, in windows. */
const PROTOCOLS = ["texts", "wikitext"] as const;

/** How perplexity is measured; see `PROTOCOLS`. */
export type Protocol = typeof PROTOCOLS[number];

/** `compile.ts eval [MODEL]`. */
export interface EvaluateOptions extends DeviceOptions, PinOptions {
  readonly kind: "eval";
  readonly model?: string;
  readonly bits: string;
  readonly data?: string;
  readonly protocol: Protocol;
  /** Tokens per window of the wikitext protocol, and between the starts of windows. */
  readonly window?: number;
  readonly stride?: number;
  /** Files of multiple-choice tasks, each a path or `layout=path`. */
  readonly tasks: readonly string[];
  readonly reference?: string;
  readonly json: boolean;
}

/** `compile.ts run [MODEL]`. */
export interface RunOptions extends DeviceOptions, PinOptions {
  readonly kind: "run";
  readonly model?: string;
  readonly prompt: string;
  readonly bits: string;
  readonly maxTokens: number;
  readonly json: boolean;
}

/** `compile.ts inspect [MODEL]`. */
export interface InspectOptions {
  readonly kind: "inspect";
  readonly model?: string;
  readonly functionName?: string;
  readonly after?: string;
  readonly bits?: string;
  readonly kernels: boolean;
  readonly kernel?: string;
  readonly wgsl: boolean;
  readonly plan: boolean;
  readonly sites: boolean;
}

/** A command line, checked. */
export type Command =
  | CompileOptions
  | EvaluateOptions
  | RunOptions
  | InspectOptions
  | { readonly kind: "help"; readonly text: string }
  | { readonly kind: "version" };

/** Options of every command that takes settings. */
export interface PinOptions {
  /** Widths of sites that always win. */
  readonly pins: readonly Pin[];
}

const PIN_TABLE = {
  pin: {
    value: "PATTERN=WIDTH",
    doc: 'width of sites that always wins, such as "layers.0.*=8"; budgets are kept by the rest; several times',
    many: true,
  },
} as const satisfies OptionTable;

const DEVICE_TABLE = {
  device: { value: "NAME", doc: `where to compute: ${DEVICES.join(", ")} (auto: a GPU if there is one, else wasm)` },
  threads: { value: "N", doc: "threads of the wasm device (as many as cores)" },
} as const satisfies OptionTable;

const JSON_TABLE = { json: { doc: "one JSON object per result on stdout" } } as const satisfies OptionTable;
const HELP_TABLE = { help: { doc: "this text" } } as const satisfies OptionTable;

const TABLES = {
  compile: {
    bits: {
      value: "SPEC",
      doc:
        'what to compile for: "4", "2-8", "w4a4", "w4a8kv4", "mixed", "mixed@3.25", a size of all weights such as "mixed@900MB" (in a file) or "mixed@900MB/memory", or a list (mixed)',
    },
    calib: { value: "FILE", doc: "text to calibrate on: .txt, or .jsonl with a text field per line" },
    eval: { value: "FILE", doc: "text of the table (the end of the calibration text, held out)" },
    out: { value: "DIR", doc: "where to save the artifact; nothing is saved without" },
    ...DEVICE_TABLE,
    seed: { value: "N", doc: "seed of everything random (0)" },
    epochs: { value: "N", doc: "passes over the calibration text, per block" },
    sequences: { value: "N", doc: "calibration sequences at most" },
    tokens: { value: "N", doc: "tokens per calibration sequence at most" },
    recipe: { value: "NAME", doc: "vernier, what measures best, or quept, the published method (vernier)" },
    track: {
      value: "NAME",
      doc:
        "what one calibration serves: weights, activations (with quantized activations and cache) or both (what --bits needs)",
    },
    set: {
      value: "NAME=VALUE",
      doc: "change one part of the recipe; may be given several times; see the end of this text",
      many: true,
    },
    master: { value: "TYPE", doc: `how the artifact keeps weights: ${MASTER_KINDS.join(", ")} (the recipe's)` },
    tie: { doc: "mixtures give linears that read one value (q/k/v, gate/up) one width" },
    ...PIN_TABLE,
    weighting: { value: "UNIT", doc: "what mixed counts bits by: parameters, or sites as in the paper (parameters)" },
    ...JSON_TABLE,
    ...HELP_TABLE,
    version: { doc: "the version" },
  },
  eval: {
    bits: { value: "LIST", doc: "settings to evaluate (16)" },
    ...PIN_TABLE,
    data: { value: "FILE", doc: "text to evaluate on: .txt or .jsonl" },
    protocol: {
      value: "NAME",
      doc:
        "texts: the first 512 tokens of each, on their own; wikitext: all of them, joined by empty lines and cut to windows (texts)",
    },
    window: { value: "N", doc: "tokens per window of the wikitext protocol (2048, or the model's context)" },
    stride: { value: "N", doc: "tokens between the starts of windows; what overlaps is context (the window)" },
    tasks: {
      value: "FILE",
      doc:
        "multiple-choice questions, .jsonl in the layout of piqa, arc, hellaswag or winogrande; [LAYOUT=]FILE, several times",
      many: true,
    },
    reference: {
      value: "MODEL",
      doc: "checkpoint or artifact that divergences are measured from (the model itself at 16)",
    },
    ...DEVICE_TABLE,
    ...JSON_TABLE,
    ...HELP_TABLE,
  },
  run: {
    prompt: { value: "TEXT", doc: "what to continue" },
    bits: { value: "SPEC", doc: "precision to run at (16)" },
    ...PIN_TABLE,
    "max-tokens": { value: "N", doc: "tokens to generate at most (64)" },
    ...DEVICE_TABLE,
    ...JSON_TABLE,
    ...HELP_TABLE,
  },
  inspect: {
    after: {
      value: "PASS",
      doc: 'the module after a pass ("start": before the first); passes are listed without options',
    },
    function: { value: "NAME", doc: "one function only" },
    bits: { value: "SPEC", doc: "specialise to a setting" },
    kernels: { doc: "the kernels of the step programs with what each fuses" },
    kernel: { value: "NAME", doc: "one kernel" },
    wgsl: { doc: "with --kernel: its WGSL" },
    plan: { doc: "the memory plan of the step programs" },
    sites: { doc: "everything that has a width: names, as --pin takes them, and parameters" },
    ...HELP_TABLE,
  },
} as const satisfies Readonly<Record<string, OptionTable>>;

/**
 * Reads a command line.
 *
 * @throws {UserError} on anything that is not known or not of its type
 */
export function readCommand(args: readonly string[]): Command {
  const [first = ""] = args, kind = isSubcommand(first) ? first : "compile", table: OptionTable = TABLES[kind];
  const rest = kind === first ? args.slice(1) : args;
  if (asksForHelp(rest, table)) return { kind: "help", text: helpText() };
  const read = readArguments(rest, table, 1);
  if (read.has("version")) return { kind: "version" };
  return READERS[kind](read);
}

/** Whether --help or -h is there as an option, and not as the value of one. */
function asksForHelp(args: readonly string[], table: OptionTable): boolean {
  const end = args.indexOf("--"), before = end < 0 ? args : args.slice(0, end);
  return before.some((arg, i) => {
    const previous = (before[i - 1] ?? "").replace(/^--/, "");
    const isValue = before[i - 1]?.startsWith("--") && Object.hasOwn(table, previous) && table[previous]?.value;
    return (arg === "--help" || arg === "-h") && !isValue;
  });
}

const isSubcommand = (name: string): name is keyof typeof TABLES => Object.hasOwn(TABLES, name);

const READERS: Readonly<Record<keyof typeof TABLES, (read: Arguments) => Command>> = {
  compile: (read) => ({
    kind: "compile",
    ...model(read),
    bits: read.text("bits") ?? "mixed",
    ...given("calibration", read.text("calib")),
    ...given("evaluation", read.text("eval")),
    ...given("out", read.text("out")),
    ...device(read),
    seed: read.integer("seed", 0) ?? 0,
    recipe: read.oneOf("recipe", RECIPE_NAMES) ?? "vernier",
    ...given("track", read.oneOf("track", TRACKS)),
    ...given("master", read.oneOf("master", MASTER_KINDS)),
    changes: read.list("set"),
    weighting: read.oneOf("weighting", ["parameters", "sites"]) ?? "parameters",
    tie: read.has("tie"),
    pins: read.list("pin").map(parsePin),
    settings: {
      ...given("epochs", read.integer("epochs", 0)),
      ...given("sequences", read.integer("sequences", 1)),
      ...given("tokens", read.integer("tokens", 2)),
    },
    json: read.has("json"),
  }),
  eval: (read) => ({
    kind: "eval",
    ...model(read),
    bits: read.text("bits") ?? "16",
    ...given("data", read.text("data")),
    protocol: read.oneOf("protocol", PROTOCOLS) ?? "texts",
    ...given("window", read.integer("window", 2)),
    ...given("stride", read.integer("stride", 1)),
    tasks: read.list("tasks"),
    pins: read.list("pin").map(parsePin),
    ...given("reference", read.text("reference")),
    ...device(read),
    json: read.has("json"),
  }),
  run: (read) => ({
    kind: "run",
    ...model(read),
    prompt: read.required("prompt", 'write --prompt "TEXT"'),
    bits: read.text("bits") ?? "16",
    pins: read.list("pin").map(parsePin),
    maxTokens: read.integer("max-tokens", 1) ?? 64,
    ...device(read),
    json: read.has("json"),
  }),
  inspect: (read) => ({
    kind: "inspect",
    ...model(read),
    ...given("functionName", read.text("function")),
    ...given("after", read.text("after")),
    ...given("bits", read.text("bits")),
    kernels: read.has("kernels"),
    ...given("kernel", read.text("kernel")),
    wgsl: read.has("wgsl"),
    plan: read.has("plan"),
    sites: read.has("sites"),
  }),
};

const model = ({ positionals: [path] }: Arguments) => given("model", path);

const device = (read: Arguments): DeviceOptions => ({
  device: read.oneOf("device", DEVICES) ?? "auto",
  ...given("threads", read.integer("threads", 1)),
});

/** A field that is left out, rather than undefined, where there is no value. */
const given = <K extends string, V>(key: K, value: V | undefined): { readonly [key in K]?: V } =>
  (value === undefined ? {} : { [key]: value }) as { readonly [key in K]?: V };

function helpText(): string {
  const usage: Readonly<Record<keyof typeof TABLES, string>> = {
    compile:
      "compile.ts [MODEL]: calibrate a checkpoint (a Hugging Face folder; the bundled model unless given) once for all widths",
    eval: "compile.ts eval [MODEL]: perplexity of a checkpoint or artifact, and its divergence from full precision",
    run: "compile.ts run [MODEL]: continue a text with a checkpoint or artifact",
    inspect: "compile.ts inspect [MODEL]: programs, kernels and memory of a checkpoint or artifact",
  };
  const sections = (Object.keys(TABLES) as (keyof typeof TABLES)[]).map((kind) =>
    [usage[kind], ...optionLines(TABLES[kind])].join("\n")
  );
  const changes: OptionTable = PLAN_CHANGES;
  return [
    ...sections,
    ["changes of a recipe, for --set:", ...optionLines(changes, (name, value) => `${name}=${value}`)].join("\n"),
  ].join("\n\n");
}
