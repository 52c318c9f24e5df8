/**
 * The rules of the repository that no type checker knows: which folder may import which, what a program that imports mod.ts by
 * URL can resolve, how long a file may be, and that nothing tells on which machine it was written.
 */
import { assertEquals } from "@std/assert";

/** Repository paths with `/` between folders, and the text of each file. */
type Sources = ReadonlyMap<string, string>;

interface Import {
  readonly line: number;
  readonly specifier: string;
  /** The `type` of the import's `with` clause. */
  readonly type?: string;
}

/** Each may import itself and what stands to its right in `compile.ts → runtime → compiler → backends → ir`. */
const LAYERS = ["ir", "backends", "compiler", "runtime", "compile.ts"];
const LONGEST_FILE = 500;
const CODE = /\.(ts|js|mjs|py|sh|wgsl)$/;
const TEXT = /(\.(ts|js|mjs|py|sh|wgsl|md|json|jsonc|lock|ya?ml|toml|cfg)|(^|\/)[^.\/]+)$/;
const PRIVATE: readonly [what: string, pattern: RegExp][] = [
  ["an absolute path of one machine", /(?<![\w.\/$}~-])\/(work|root|home\/[\w.-]+|Users\/[\w.-]+)\//],
  ["a package registry's host", /\b(registry\.|npmjs\.(org|com)|jsr\.io|pypi\.org|pythonhosted\.org|[a-z]+\.pkg\.dev)/],
  ["a package archive's host", /https?:\/\/[\w.-]*(debian\.org|ubuntu\.com|mirror|proxy|artifact)/],
];

/** Static imports, re-exports and dynamic imports of a literal. */
function importsOf(source: string): Import[] {
  const statement =
    /^[ \t]*(?:import|export)\b(?:[^;'"`(]*?\bfrom)?\s*["']([^"'\n]+)["'](?:\s*with\s*\{\s*type:\s*["'](\w+)["'])?/gm;
  const dynamic =
    /(?<!\/\/.*|^\s*\*.*)\bimport\(\s*["']([^"'\n]+)["'](?:\s*,\s*\{\s*with:\s*\{\s*type:\s*["'](\w+)["'])?/gm;
  return [...source.matchAll(statement), ...source.matchAll(dynamic)].map((match) => ({
    line: source.slice(0, match.index + match[0].indexOf(match[1] ?? "")).split("\n").length,
    specifier: match[1] ?? "",
    ...(match[2] === undefined ? {} : { type: match[2] }),
  }));
}

/** The repository path that a relative specifier in `file` names. */
const resolve = (file: string, specifier: string) => new URL(specifier, `file:///${file}`).pathname.slice(1);
const isRelative = (specifier: string) => /^\.\.?\//.test(specifier);

/** Imports of code against the direction of the layers, and examples that reach past the public interface. */
function wrongDirections(sources: Sources): string[] {
  const layerOf = (path: string) => LAYERS.indexOf(path.split("/")[0] ?? "");
  return forEachImport(sources, (file, { specifier }) => {
    const target = isRelative(specifier) ? resolve(file, specifier) : undefined;
    if (target === undefined || !CODE.test(target)) return undefined;
    const allowed = file.startsWith("tests/")
      ? true
      : file.startsWith("examples/")
      ? target === "mod.ts" || target.startsWith("examples/")
      : file === "mod.ts"
      ? layerOf(target) >= 0 && target !== "compile.ts"
      : file === "compile.ts" && target === "mod.ts" || layerOf(target) >= 0 && layerOf(target) <= layerOf(file);
    return allowed ? undefined : `imports "${specifier}" against the direction ${LAYERS.toReversed().join(" → ")}`;
  });
}

/** What mod.ts reaches that would not resolve for a program which imports it by URL, where our deno.json is not seen. */
function unresolvableByUrl(sources: Sources): string[] {
  const reached = new Map<string, string>();
  const visit = (file: string) => {
    const source = sources.get(file);
    if (source === undefined || reached.has(file)) return;
    reached.set(file, source);
    for (const { specifier } of importsOf(source)) if (isRelative(specifier)) visit(resolve(file, specifier));
  };
  visit("mod.ts");
  return forEachImport(reached, (file, { specifier, type }) => {
    if (type === "bytes") return `imports "${specifier}" as bytes, which only programs with our deno.json can`;
    if (/^npm:(@[\w.-]+\/)?[\w.-]+@\d+\.\d+\.\d+[\w.+-]*(\/|$)/.test(specifier)) return undefined;
    if (!isRelative(specifier)) return `imports "${specifier}": expected a relative path or npm:name@1.2.3`;
    return sources.has(resolve(file, specifier)) ? undefined : `imports "${specifier}", which does not exist`;
  });
}

function forEachImport(sources: Sources, complain: (file: string, found: Import) => string | undefined): string[] {
  return [...sources].filter(([file]) => /\.ts$/.test(file)).flatMap(([file, source]) =>
    importsOf(source).flatMap((found) => {
      const complaint = complain(file, found);
      return complaint === undefined ? [] : [`${file}:${found.line} ${complaint}`];
    })
  );
}

function tooLong(sources: Sources): string[] {
  return [...sources].flatMap(([file, source]) => {
    const lines = source.trimEnd().split("\n").length;
    return CODE.test(file) && !file.startsWith("tests/") && lines > LONGEST_FILE
      ? [`${file}:${LONGEST_FILE} has ${lines} lines: expected at most ${LONGEST_FILE}`]
      : [];
  });
}

function privateWords(sources: Sources): string[] {
  return [...sources].flatMap(([file, source]) =>
    source.split("\n").flatMap((text, i) =>
      PRIVATE.filter(([, pattern]) => pattern.test(text)).map(([what]) => `${file}:${i + 1} names ${what}`)
    )
  );
}

/** Every text file of the repository, without what git ignores. */
async function readRepository(): Promise<Sources> {
  const root = new URL("../", import.meta.url);
  const skipped = /^(\.git|\.gl|node_modules|out|docs\/api|shared)$|(^|\/)(__pycache__|node_modules)$/;
  const sources = new Map<string, string>();
  const walk = async (folder: string) => {
    for await (const entry of Deno.readDir(new URL(folder, root))) {
      const path = folder.slice(2) + entry.name;
      if (entry.isDirectory && !skipped.test(path)) await walk(`./${path}/`);
      else if (entry.isFile && TEXT.test(path)) sources.set(path, await Deno.readTextFile(new URL(`./${path}`, root)));
    }
  };
  await walk("./");
  return sources;
}

const repository = await readRepository();

Deno.test("imports point one way: compile.ts → runtime → compiler → backends → ir", () => {
  assertEquals(wrongDirections(repository), []);
});

Deno.test("everything reachable from mod.ts resolves for programs that import it by URL", () => {
  assertEquals(repository.has("mod.ts"), true, "mod.ts is missing");
  assertEquals(unresolvableByUrl(repository), []);
});

Deno.test("no file of code outside tests is longer than 500 lines", () => {
  assertEquals(tooLong(repository), []);
});

Deno.test("no file names a path of one machine or the host of a package registry", () => {
  assertEquals(privateWords(repository), []);
});

const sources = (files: Record<string, string>): Sources => new Map(Object.entries(files));

Deno.test("importsOf() finds every form of import with its line", () => {
  const found = importsOf([
    'import { a } from "./a.ts";',
    "import {",
    "  b,",
    '} from "npm:b@1.0.0";',
    'export * from "./c.ts";',
    'import "./d.ts";',
    'import type { E } from "./e.ts";',
    'import data from "./f.bin" with { type: "bytes" };',
    'const lazy = await import("./g.ts");',
    'export const notAnImport = "./h.ts";',
    '// await import("./i.ts")',
    'export { j } from "./j.ts";',
  ].join("\n"));
  assertEquals(
    found.map(({ specifier, line, type }) => [specifier, line, type]).sort(),
    [
      ["./a.ts", 1, undefined],
      ["./c.ts", 5, undefined],
      ["./d.ts", 6, undefined],
      ["./e.ts", 7, undefined],
      ["./f.bin", 8, "bytes"],
      ["./g.ts", 9, undefined],
      ["./j.ts", 12, undefined],
      ["npm:b@1.0.0", 4, undefined],
    ],
  );
});

Deno.test("wrongDirections() reports an import to the left and an example past mod.ts", () => {
  const complaint = "against the direction compile.ts → runtime → compiler → backends → ir";
  assertEquals(
    wrongDirections(sources({
      "ir/a.ts": 'import "./b.ts";\nimport "../compiler/c.ts";',
      "runtime/d.ts": 'import "../ir/a.ts";\nimport "../compile.ts";',
      "examples/e.ts": 'import "../mod.ts";\nimport "./f.ts";\nimport "../ir/a.ts";',
      "compile.ts":
        'import "./mod.ts";\nimport "./runtime/d.ts";\nimport bytes from "./examples/models/x.bin" with { type: "bytes" };',
      "mod.ts": 'export * from "./ir/a.ts";\nexport * from "./compile.ts";',
      "tests/g.ts": 'import "../compile.ts";',
    })),
    [
      `ir/a.ts:2 imports "../compiler/c.ts" ${complaint}`,
      `runtime/d.ts:2 imports "../compile.ts" ${complaint}`,
      `examples/e.ts:3 imports "../ir/a.ts" ${complaint}`,
      `mod.ts:2 imports "./compile.ts" ${complaint}`,
    ],
  );
});

Deno.test("unresolvableByUrl() reports bare names, ranges, bytes and missing files reached from mod.ts only", () => {
  assertEquals(
    unresolvableByUrl(sources({
      "mod.ts": 'export * from "./ir/a.ts";\nexport * from "npm:@x/y@1.2.3/z.js";',
      "ir/a.ts":
        'import "bare";\nimport "npm:x@^1.2.3";\nimport d from "./a.bin" with { type: "bytes" };\nimport "./b.ts";',
      "ir/unreached.ts": 'import "bare";',
    })),
    [
      'ir/a.ts:1 imports "bare": expected a relative path or npm:name@1.2.3',
      'ir/a.ts:2 imports "npm:x@^1.2.3": expected a relative path or npm:name@1.2.3',
      'ir/a.ts:3 imports "./a.bin" as bytes, which only programs with our deno.json can',
      'ir/a.ts:4 imports "./b.ts", which does not exist',
    ],
  );
});

Deno.test("privateWords() tells paths and hosts from words that resemble them", () => {
  const slash = "/";
  assertEquals(
    privateWords(sources({
      "a.md": `cd ${slash}home${slash}ann/x`,
      "b.md": `see ${slash}work${slash}main`,
      "c.lock": `https:${slash}${slash}host/npm ${"registry"}.example.com`,
      "d.md":
        `..${slash}work${slash}x, homework${slash} and @workgroup_size, ${slash}workspace${slash}x, ~${slash}root, $HOME${slash}work${slash}x`,
    })),
    [
      "a.md:1 names an absolute path of one machine",
      "b.md:1 names an absolute path of one machine",
      "c.lock:1 names a package registry's host",
    ],
  );
});
