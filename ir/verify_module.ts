/**
 * What must hold of a module besides its functions being valid graphs: calls name functions, inputs and outputs that exist,
 * values are defined before their use, and the types of what is passed agree.
 *
 * A function's symbols are its own: a call binds them to the dimensions of what it receives (`T` may become `U`), and the
 * types of its results follow. A module's inputs take their types from the first call that reads them.
 */
import { type Dim, multiplyDims } from "./dim.ts";
import { type Call, functionOf, type Module, parametersOf } from "./module.ts";
import { leavesOf, nameOf } from "./node.ts";
import { type TensorType, tensorType, typeText } from "./types.ts";
import { verify } from "./verify.ts";

/**
 * Checks a module and its functions.
 *
 * @param where when the module is checked, for the error: `after fuse-norms`
 * @throws {Error} That names the call, what was expected and what was found.
 */
export function verifyModule(module: Module, where = "a module"): void {
  for (const [name, graph] of Object.entries(module.functions)) verify(graph, `function "${name}" of ${where}`);
  const values = new Map<string, TensorType | undefined>(module.inputs.map((name) => [name, undefined]));
  const parameters = new Map<string, TensorType>();
  module.calls.forEach((call, i) => {
    const fail: Fail = (problem) => {
      const prefix = call.prefix === "" ? "" : ` "${call.prefix}"`;
      throw new Error(`Internal error in ${where}, call ${i} of "${call.function}"${prefix}: ${problem}`);
    };
    if (!Object.hasOwn(module.functions, call.function)) {
      fail(`expected one of the functions ${list(Object.keys(module.functions))} but found "${call.function}"`);
    }
    verifyParameters(module, call, parameters, fail);
    verifyCall(module, call, values, fail);
  });
  const lost = module.outputs.find((name) => !values.has(name));
  if (lost !== undefined) {
    throw new Error(
      `Internal error in ${where}: expected one of the values ${list(values.keys())} as output but found "${lost}"`,
    );
  }
}

type Fail = (problem: string) => never;

function verifyParameters(module: Module, call: Call, known: Map<string, TensorType>, fail: Fail): void {
  for (const [name, type] of parametersOf(module, call)) {
    const other = known.get(name) ?? module.derived[name]?.type;
    if (other && typeText(other) !== typeText(type)) {
      fail(`expected ${typeText(other)} for the parameter "${name}" but found ${typeText(type)}`);
    }
    known.set(name, type);
  }
}

function verifyCall(module: Module, call: Call, values: Map<string, TensorType | undefined>, fail: Fail): void {
  const graph = functionOf(module, call), symbols = new Map<string, Dim>();
  const declared = new Map(leavesOf(graph, "input").map((node) => [nameOf(node), node.type]));
  const stray = Object.keys(call.inputs).find((name) => !declared.has(name));
  if (stray !== undefined) fail(`expected one of the inputs ${list(declared.keys())} but found "${stray}"`);

  const passed = [...declared].map(([input, type]) => {
    const value = call.inputs[input];
    if (value === undefined) return fail(`expected a value for the input "${input}" but found none`);
    if (!values.has(value)) {
      fail(`expected one of the values ${list(values.keys())} but found "${value}" for "${input}"`);
    }
    return { input, value, type };
  });
  // Symbols alone first, then products of them, then values whose type nobody has said yet.
  for (const { value, type } of passed) {
    const given = values.get(value);
    type.shape.forEach((dim, i) => {
      const found = given?.shape[i];
      if (found !== undefined && typeof dim === "string" && /^[A-Z]\w*$/.test(dim) && !symbols.has(dim)) {
        symbols.set(dim, found);
      }
    });
  }
  for (const { input, value, type } of passed) {
    const given = values.get(value), expected = boundType(type, symbols);
    if (given && typeText(given) !== typeText(expected)) {
      fail(`expected ${typeText(expected)} for the input "${input}" but found "${value}" of ${typeText(given)}`);
    }
    values.set(value, expected);
  }
  const results = new Map(graph.outputs.map(({ name, node }) => [name, node.type]));
  for (const [output, value] of Object.entries(call.outputs)) {
    const type = results.get(output);
    if (!type) return fail(`expected one of the outputs ${list(results.keys())} but found "${output}"`);
    values.set(value, boundType(type, symbols));
  }
}

/** The type with its symbols replaced by what the call binds them to. */
function boundType({ dtype, shape }: TensorType, symbols: ReadonlyMap<string, Dim>): TensorType {
  const bind = (dim: Dim): Dim =>
    typeof dim === "number" ? dim : multiplyDims(
      dim.split("*").map((factor) => symbols.get(factor) ?? (/^\d/.test(factor) ? Number(factor) : factor)),
    );
  return tensorType(dtype, shape.map(bind));
}

const list = (names: Iterable<string>): string => [...names].map((name) => `"${name}"`).join(", ") || "none";
