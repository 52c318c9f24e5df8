import { assertEquals, assertMatch, assertThrows } from "@std/assert";
import { UserError } from "../../../ir/errors.ts";
import { readCommand } from "../../../runtime/commands/options.ts";

Deno.test("readCommand() without arguments compiles the bundled model for a mixture", () => {
  assertEquals(readCommand([]), {
    kind: "compile",
    bits: "mixed",
    device: "auto",
    seed: 0,
    recipe: "vernier",
    changes: [],
    weighting: "parameters",
    tie: false,
    pins: [],
    settings: {},
    json: false,
  });
});

Deno.test("readCommand() collects changes of the recipe in order", () => {
  const command = readCommand([
    "--set",
    "loss=2",
    "--recipe",
    "quept",
    "--set=top=0.25",
    "--master=fp16",
    "--track=both",
  ]);
  const changes = ["loss=2", "top=0.25"];
  assertEquals(
    command,
    { ...readCommand([]), changes, recipe: "quept", master: "fp16", track: "both" } as typeof command,
  );
});

Deno.test("readCommand() takes options in any order, with blanks or equals signs", () => {
  const args = [
    "--bits=2-8",
    "model",
    "--calib",
    "a.txt",
    "--out",
    "out",
    "--device=wasm",
    "--threads",
    "3",
    "--seed",
    "7",
    "--epochs",
    "2",
    "--tokens=64",
    "--json",
  ];
  assertEquals(readCommand(args), {
    kind: "compile",
    model: "model",
    bits: "2-8",
    calibration: "a.txt",
    out: "out",
    device: "wasm",
    threads: 3,
    seed: 7,
    recipe: "vernier",
    changes: [],
    weighting: "parameters",
    tie: false,
    pins: [],
    settings: { epochs: 2, tokens: 64 },
    json: true,
  });
});

Deno.test("readCommand() knows subcommands by the first word; a folder of that name needs a path", () => {
  assertEquals(readCommand(["eval", "m", "--data", "x.txt"]).kind, "eval");
  assertEquals(
    readCommand(["./eval"]),
    { ...readCommand([]), model: "./eval" } as unknown as ReturnType<typeof readCommand>,
  );
  const run = readCommand(["run", "--prompt", "--", "--max-tokens=3"].with(2, "-x"));
  assertEquals(run.kind === "run" && [run.prompt, run.maxTokens], ["-x", 3]);
});

Deno.test("readCommand() passes what follows -- on as it is", () => {
  const command = readCommand(["--json", "--", "--model"]);
  assertEquals(command.kind === "compile" && command.model, "--model");
});

Deno.test("readCommand() refuses what it does not know", () => {
  for (
    const [args, message] of [
      [["--nonsense"], /^Expected an option but found "--nonsense"; use one of --bits, --calib,/],
      [["-x"], /found "-x"/],
      [["eval", "--calib", "x"], /found "--calib"; use one of --bits, --pin, --data,/],
      [["--json=1"], /^Expected no value for --json but found "1"$/],
      [["--out", "--json"], /^Expected a value for --out but found "--json"; write --out DIR$/],
      [["--seed", "1.5"], /^Expected a whole number of 0 or more for --seed but found "1.5"$/],
      [["--threads", "0"], /1 or more for --threads but found "0"/],
      [["--master", "int4"], /^Expected int8, int10, fp16 for --master but found "int4"$/],
      [["a", "b"], /^Expected one argument but found also "b"$/],
      [["run"], /^Expected --prompt but found none; write --prompt "TEXT"$/],
    ] as const
  ) assertMatch(assertThrows(() => readCommand(args), UserError).message, message);
});

Deno.test("readCommand() takes no value for a call for help", () => {
  const prompt = (...args: string[]) => {
    const command = readCommand(["run", "model", "--prompt", ...args]);
    return command.kind === "run" ? command.prompt : command.kind;
  };
  assertEquals(prompt("-h"), "-h");
  assertEquals(prompt("text", "-h"), "help");
  assertEquals(prompt("text", "--json", "--help"), "help");
  assertThrows(() => prompt("--help"), UserError, "Expected a value for --prompt");
});

Deno.test("readCommand() answers --help anywhere with all commands and options", () => {
  const command = readCommand(["eval", "--help"]);
  const text = command.kind === "help" ? command.text : "";
  for (
    const part of [
      "compile.ts [MODEL]:",
      "compile.ts eval",
      "compile.ts run",
      "compile.ts inspect",
      "--reference MODEL",
      "--wgsl",
    ]
  ) {
    assertEquals(text.includes(part), true, part);
  }
});
