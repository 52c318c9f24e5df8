/** A WebAssembly module under construction: imported memories, functions, exports; as bytes and as text. */

import {
  AssemblyError,
  type Expr,
  type Feature,
  type Func,
  type Local,
  type Memory,
  type Operand,
  type Params,
} from "./expr.ts";
import type { ResultType, ValueType } from "./expr.ts";
import { ByteWriter, encodeFunction, TYPE_BYTE } from "./encode.ts";
import { buildFunction, type FunctionBuilder } from "./function.ts";
import { printModule } from "./print.ts";

/**
 * Size and kind of an imported memory, in pages of 64 KiB. The memory handed over must lie within these limits: at least `minimum`
 * (default 0) pages large now, and made with a `maximum` no larger than this one. A shared memory always has a maximum
 * (default 65536).
 */
export interface MemoryLimits {
  readonly minimum?: number;
  readonly maximum?: number;
  readonly shared?: boolean;
}

/** A memory as a module declares it. */
export interface ImportedMemory extends Memory {
  readonly module: string;
  readonly minimum: number;
  readonly maximum: number | undefined;
  readonly shared: boolean;
}

type Locals<P extends Params> = { readonly [K in keyof P]: Local<P[K]> };

/** Collects the parts of one module. */
export interface ModuleBuilder {
  /** Imports a memory `name` of module `env`. The first one declared is what loads and stores use unless told otherwise. */
  memory(name: string, limits?: MemoryLimits): Memory;
  /** Defines a function without result. */
  func<P extends Params>(name: string, params: P, body: (b: FunctionBuilder, p: Locals<P>) => void): Func<P, "void">;
  /** Defines a function with a result; `body` returns it (or ends with `b.return` or `b.trap`). */
  func<P extends Params, R extends ValueType>(
    name: string,
    params: P,
    result: R,
    body: (b: FunctionBuilder, p: Locals<P>) => Operand<R> | void,
  ): Func<P, R>;
  /** Makes a function callable from outside, under its own name unless told otherwise. */
  export(func: Func, name?: string): void;
  /** Returns what `define` made when it was first called with this key: helper functions that several kernels share. */
  helper<F extends Func>(key: string, define: () => F): F;
  /** The module, ready for `new WebAssembly.Module`. */
  bytes(): Uint8Array<ArrayBuffer>;
  /** The module in the text format, with the comments. */
  text(): string;
  /** Instruction sets beyond fixed-width SIMD that the module uses. */
  features(): ReadonlySet<Feature>;
}

/** What `printModule` and the encoder need to see. */
export interface ModuleParts {
  readonly comment: string;
  readonly memories: readonly ImportedMemory[];
  readonly functions: readonly Func[];
  readonly exports: ReadonlyMap<string, Func>;
}

const HEADER = [0x00, 0x61, 0x73, 0x6d, 0x01, 0x00, 0x00, 0x00];
const SECTION = { custom: 0, type: 1, import: 2, function: 3, export: 7, code: 10 };
const KIND = { function: 0, memory: 2 };
const MAXIMUM_PAGES = 65536;

/** Starts a module. `comment` heads its text. */
export function createModule(options: { readonly comment?: string } = {}): ModuleBuilder {
  const memories: ImportedMemory[] = [];
  const functions: Func[] = [];
  const exports = new Map<string, Func>();
  const helpers = new Map<string, Func>();
  const parts: ModuleParts = { comment: options.comment ?? "", memories, functions, exports };

  function func(name: string, params: Params, ...rest: readonly unknown[]): Func {
    const [result, body] = (rest.length === 1 ? ["void", rest[0]] : rest) as [
      ResultType,
      Parameters<typeof buildFunction>[3],
    ];
    // The index is taken afterwards: the body may have defined helpers of its own.
    const made = { ...buildFunction(name, params, result, body), index: functions.length };
    functions.push(made);
    return made;
  }

  return {
    memory(name, { minimum = 0, shared = false, maximum = shared ? MAXIMUM_PAGES : undefined } = {}) {
      const memory = { module: "env", name, index: memories.length, minimum, maximum, shared };
      memories.push(memory);
      return memory;
    },
    func: func as ModuleBuilder["func"],
    export(target, name = target.name) {
      if (exports.has(name)) {
        throw new AssemblyError(`Cannot export "${name}": expected a new name but it is exported already`);
      }
      exports.set(name, target);
    },
    helper<F extends Func>(key: string, define: () => F): F {
      const known = helpers.get(key);
      if (known) return known as F;
      const made = define();
      helpers.set(key, made);
      return made;
    },
    bytes: () => encodeModule(parts),
    text: () => printModule(parts),
    features: () => featuresOf(functions),
  };
}

function featuresOf(functions: readonly Func[]): ReadonlySet<Feature> {
  const found = new Set<Feature>();
  const visit = (expr: Expr): void => {
    if (expr.op.feature) found.add(expr.op.feature);
    expr.args.forEach(visit);
    if (expr.imm.kind === "body") [...expr.imm.body, ...expr.imm.otherwise].forEach(visit);
  };
  for (const func of functions) func.body.forEach(visit);
  return found;
}

function encodeModule({ memories, functions, exports }: ModuleParts): Uint8Array<ArrayBuffer> {
  const out = new ByteWriter();
  const content = new ByteWriter();
  out.bytes(HEADER);
  const section = (id: number, write: () => void) => {
    content.clear();
    write();
    out.byte(id);
    out.unsigned(content.length);
    out.append(content);
  };

  const types = new Map<string, number>();
  const typeOf = (f: Func) => `${Object.values(f.params)}:${f.result}`;
  for (const f of functions) if (!types.has(typeOf(f))) types.set(typeOf(f), types.size);
  section(SECTION.type, () => {
    content.unsigned(types.size);
    const written = new Set<string>();
    for (const f of functions) {
      if (written.has(typeOf(f))) continue;
      written.add(typeOf(f));
      const params = Object.values(f.params);
      content.byte(0x60);
      content.unsigned(params.length);
      for (const type of params) content.byte(TYPE_BYTE[type]);
      content.bytes(f.result === "void" ? [0] : [1, TYPE_BYTE[f.result]]);
    }
  });
  section(SECTION.import, () => {
    content.unsigned(memories.length);
    for (const { module, name, minimum, maximum, shared } of memories) {
      content.text(module);
      content.text(name);
      content.byte(KIND.memory);
      content.byte((shared ? 2 : 0) | (maximum === undefined ? 0 : 1));
      content.unsigned(minimum);
      if (maximum !== undefined) content.unsigned(maximum);
    }
  });
  section(SECTION.function, () => {
    content.unsigned(functions.length);
    for (const f of functions) content.unsigned(types.get(typeOf(f)) ?? 0);
  });
  section(SECTION.export, () => {
    content.unsigned(exports.size);
    for (const [name, f] of exports) {
      content.text(name);
      content.byte(KIND.function);
      content.unsigned(f.index);
    }
  });
  section(SECTION.code, () => {
    const body = new ByteWriter();
    content.unsigned(functions.length);
    for (const f of functions) {
      body.clear();
      encodeFunction(body, f);
      content.unsigned(body.length);
      content.append(body);
    }
  });
  // Function names, so that the stack of a trap names the kernel and its helpers.
  section(SECTION.custom, () => {
    const names = new ByteWriter();
    names.unsigned(functions.length);
    for (const f of functions) {
      names.unsigned(f.index);
      names.text(f.name);
    }
    content.text("name");
    content.byte(1);
    content.unsigned(names.length);
    content.append(names);
  });
  return out.finish();
}
