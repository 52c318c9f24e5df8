/** Builds the body of one function: locals, statements and structured control flow. */

import {
  AssemblyError,
  constantOf,
  type Expr,
  type Func,
  type Immediate,
  instruction,
  type Label,
  type Local,
} from "./expr.ts";
import {
  node,
  type Operand,
  type Params,
  type ResultType,
  type Stmt,
  toExpr,
  type ValueType,
  type Variable,
} from "./expr.ts";
import { hoistConstants } from "./hoist.ts";
import { i32 } from "./scalar.ts";

const op = {
  get: instruction("local.get", 0x20, [], "void"),
  set: instruction("local.set", 0x21, [], "void"),
  tee: instruction("local.tee", 0x22, [], "void"),
  block: instruction("block", 0x02, [], "void"),
  loop: instruction("loop", 0x03, [], "void"),
  if: instruction("if", 0x04, ["i32"], "void"),
  br: instruction("br", 0x0c, [], "void"),
  brIf: instruction("br_if", 0x0d, ["i32"], "void"),
  return: instruction("return", 0x0f, [], "void"),
  call: instruction("call", 0x10, [], "void"),
  drop: instruction("drop", 0x1a, [], "void"),
  trap: instruction("unreachable", 0x00, [], "void"),
  comment: instruction(";;", 0x01, [], "void"),
};

/** Sets a local and yields the value: `(local.tee $x value)`. */
export function tee<T extends ValueType>(local: Local<T>, value: Operand<T>): Expr<T> {
  return {
    type: local.type,
    op: op.tee,
    args: [toExpr(value, local.type, `local.tee $${local.name}`, 0)],
    imm: { kind: "local", local },
  };
}

/** Calls a function of the same module with named arguments. */
export function call<P extends Params, R extends ResultType>(
  func: Func<P, R>,
  args: { readonly [K in keyof P]: Operand<P[K]> },
): Expr<R> {
  const values = Object.entries(func.params).map(([name, type], i) =>
    toExpr(args[name], type, `call $${func.name}`, i)
  );
  return { type: func.result, op: op.call, args: values, imm: { kind: "call", func } };
}

/** Everything a function body can be made of. Statements take effect in the order of the calls. */
export interface FunctionBuilder {
  /** Declares a variable, zero at first. A name that is taken gets a number behind it. */
  local<T extends ValueType>(name: string, type: T): Local<T>;
  /** Declares a variable and sets it: the way to use a value twice. */
  let<T extends ValueType>(name: string, value: Expr<T>): Local<T>;
  set<T extends ValueType>(local: Local<T>, value: Operand<T>): void;
  /** Appends statements: stores, calls without result, atomic stores. */
  emit(...statements: readonly Stmt[]): void;
  /** Evaluates an expression for its effect. */
  drop(value: Expr<ValueType>): void;
  /** A line for the reader of the printed text; no bytes. */
  comment(text: string): void;
  if(condition: Operand<"i32">, then: () => void, otherwise?: () => void): void;
  /** A block that `br(exit)` leaves. */
  block(body: (exit: Label) => void): void;
  /** A block that `br(again)` repeats; falling out of its end leaves it. */
  loop(body: (again: Label) => void): void;
  br(label: Label): void;
  brIf(label: Label, condition: Operand<"i32">): void;
  /**
   * for (i = from; i < to; i += step), signed, with a new local `i`. `to` and `step` are evaluated once; the body may not change
   * what they were made of in any way that matters. `i` keeps its last value (≥ `to`) afterwards, or `from` when nothing ran.
   */
  for(
    name: string,
    from: Operand<"i32">,
    to: Operand<"i32">,
    step: Operand<"i32">,
    body: (i: Local<"i32">) => void,
  ): Local<"i32">;
  while(condition: Expr<"i32">, body: () => void): void;
  /** Leaves the function, with its result where it has one. */
  return(value?: Expr<ValueType>): void;
  /** Traps: for places a correct program never reaches. */
  trap(): void;
}

/** Builds a function, all but its place in the module. Used by `ModuleBuilder.func`. */
export function buildFunction<P extends Params, R extends ResultType>(
  name: string,
  params: P,
  result: R,
  write: (b: FunctionBuilder, p: { readonly [K in keyof P]: Local<P[K]> }) => Operand<ValueType> | void,
): Omit<Func<P, R>, "index"> {
  const owner = { name };
  const names = new Set<string>();
  const variables: Variable[] = [];
  let statements: Stmt[] = [];
  let labels = 0;

  const declare = <T extends ValueType>(wanted: string, type: T): Local<T> => {
    const base = identifier(wanted);
    let unique = base;
    for (let n = 1; names.has(unique); n++) unique = `${base}_${n}`;
    names.add(unique);
    const variable = { type, name: unique, index: variables.length, owner };
    variables.push(variable);
    return { ...variable, op: op.get, args: [], imm: { kind: "local", local: variable } };
  };
  const inside = (body: () => void): Stmt[] => {
    const outer = statements;
    const inner: Stmt[] = [];
    statements = inner;
    try {
      body();
    } finally {
      statements = outer;
    }
    return inner;
  };
  const push = (what: typeof op.get, args: readonly Expr<ValueType>[], imm: Immediate = { kind: "none" }) => {
    statements.push({ type: "void", op: what, args, imm });
  };
  const labelled = (what: typeof op.get, prefix: string, body: (label: Label) => void) => {
    const label = { name: `${prefix}${labels++}` };
    push(what, [], { kind: "body", label, body: inside(() => body(label)), otherwise: [] });
  };
  const returned = (value: Operand<ValueType> | undefined): Expr<ValueType>[] => {
    if (result === "void") {
      if (value === undefined) return [];
      throw new AssemblyError(`Cannot return a value from "${name}": expected none, because it has no result type`);
    }
    return [toExpr(value, result, `return of ${name}`, 0)];
  };

  const b: FunctionBuilder = {
    local: declare,
    let(wanted, value) {
      const local = declare(wanted, value.type);
      b.set(local, value as Operand<typeof value.type>);
      return local;
    },
    set(local, value) {
      statements.push(assignment(local, value));
    },
    emit(...added) {
      for (const statement of added) {
        if (statement.type !== "void") {
          throw new AssemblyError(
            `Cannot emit "${statement.op.name}" in "${name}": expected a statement but found a value of type ${statement.type}; use drop()`,
          );
        }
        statements.push(statement);
      }
    },
    drop: (value) => push(op.drop, [value]),
    comment: (text) => push(op.comment, [], { kind: "comment", text }),
    if(condition, then, otherwise) {
      const label = { name: `if${labels++}` };
      const body = inside(then);
      statements.push(
        node(op.if, "void", [condition], { kind: "body", label, body, otherwise: otherwise ? inside(otherwise) : [] }),
      );
    },
    block: (body) => labelled(op.block, "block", body),
    loop: (body) => labelled(op.loop, "loop", body),
    br: (label) => push(op.br, [], { kind: "label", label }),
    brIf(label, condition) {
      statements.push(node(op.brIf, "void", [condition], { kind: "label", label }));
    },
    for(wanted, from, to, step, body) {
      const first = toExpr(from, "i32", `for ${wanted}`, 0);
      const end = once(`${wanted}_end`, toExpr(to, "i32", `for ${wanted}`, 1));
      const stride = once(`${wanted}_step`, toExpr(step, "i32", `for ${wanted}`, 2));
      const [known, limit, by] = [constantOf(first), constantOf(end), constantOf(stride)];
      if (by !== undefined && by <= 0) {
        throw new AssemblyError(
          `Cannot build the loop over "${wanted}" in "${name}": expected a positive step but found ${by}`,
        );
      }
      const i = b.let(wanted, first);
      if (known !== undefined && limit !== undefined && known >= limit) return i;
      const repeat = () =>
        b.loop((again) => {
          body(i);
          b.set(i, i32.add(i, stride));
          b.brIf(again, i32.lt_s(i, end));
        });
      if (known !== undefined && limit !== undefined) repeat();
      else b.if(i32.lt_s(i, end), repeat);
      return i;
    },
    while(condition, body) {
      b.loop((again) => {
        b.if(condition, () => {
          body();
          b.br(again);
        });
      });
    },
    return(value) {
      push(op.return, returned(value));
    },
    trap: () => push(op.trap, []),
  };

  /** A value that is cheap to repeat: constants and variables as they are, anything else in a local. */
  const once = (wanted: string, value: Expr<"i32">): Expr<"i32"> =>
    constantOf(value) !== undefined || value.op === op.get ? value : b.let(wanted, value);

  const parameters = Object.entries(params).map(([key, type]) => [key, declare(key, type)]);
  const value = write(b, Object.fromEntries(parameters));
  const last = statements.at(-1)?.op;
  if (value !== undefined || (result !== "void" && last !== op.return && last !== op.trap)) b.return(...valueOf(value));

  const entry: Stmt[] = [];
  const body = hoistConstants(statements, (wanted, constant) => {
    const local = declare(wanted, "v128");
    entry.push(assignment(local, constant));
    return local;
  });
  return { name: identifier(name), params, result, locals: variables, body: [...entry, ...body], owner };

  function valueOf(v: Operand<ValueType> | void): [] | [Expr<ValueType>] {
    const [expr] = returned(v ?? undefined);
    return expr ? [expr] : [];
  }
}

function assignment<T extends ValueType>(local: Variable<T>, value: Operand<T>): Stmt {
  const args = [toExpr(value, local.type, `local.set $${local.name}`, 0)];
  return { type: "void", op: op.set, args, imm: { kind: "local", local } };
}

/** Replaces what the text format does not allow in names. */
export function identifier(name: string): string {
  return name.replace(/[^A-Za-z0-9_.!#$%&'*+/:<=>?@^`|~-]/g, "_");
}
