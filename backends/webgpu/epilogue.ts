/** What contractions do with finished sums: the term of a group, and the stores. */
import type { DotKernel } from "../kernel.ts";
import { locate, type Place, writeOne } from "./access.ts";
import { startBlock } from "./expressions.ts";
import { indent, wrap } from "./text.ts";
import type { Writer } from "./writer.ts";

/** Type of the finished sum. */
export const sumScalar = ({ groups, scalar }: DotKernel): "f32" | "i32" => groups ? "f32" : scalar;

/** The function `term(batch, m, n, group, inner)`: what the sum over one group adds. */
export function termFunction(writer: Writer, { batch, m, n, k, groups, scalar }: DotKernel): string {
  return writer.helper("term", (name) => {
    if (!groups) return [];
    const place: Place = { vars: ["batch", "m", "n", "group"], extents: [batch, m, n, k[0] ?? 1] };
    const block = startBlock(
      writer,
      place,
      [groups.term],
      new Map([[groups.inner, { text: "inner", scalar, vector: false }]]),
    );
    const value = block.emit(groups.term).text;
    return [
      `fn ${name}(batch: u32, m: u32, n: u32, group: u32, inner: ${scalar}) -> f32 {`,
      ...indent([...block.lines, `return ${value};`]),
      "}",
    ];
  });
}

/** The function `finish(batch, m, n, sum)`: the stores. */
export function finishFunction(writer: Writer, spec: DotKernel): string {
  const { batch, m, n, stores, accumulator } = spec, scalar = sumScalar(spec);
  return writer.helper("finish", (name) => {
    const place: Place = { vars: ["batch", "m", "n"], extents: [batch, m, n] };
    const roots = stores.flatMap(({ value, scatter }) => scatter ? [value, scatter.index] : [value]);
    const block = startBlock(writer, place, roots, new Map([[accumulator, { text: "sum", scalar, vector: false }]]));
    const writes = stores.map(({ buffer, access, value, scatter }) => {
      const text = block.emit(value).text, { layout } = writer.view(buffer);
      if (!scatter) return writeOne(writer, buffer, locate(layout, access, place), text);
      const row = wrap(block.emit(scatter.index).text),
        chosen = { name: `u32(${row})`, stride: scatter.stride, extent: scatter.extent };
      const lines = writeOne(writer, buffer, locate(layout, access, place, chosen), text);
      return [`if (${row} >= 0i && ${row} < ${scatter.extent}i) {`, ...indent(lines), "}"];
    });
    return [
      `fn ${name}(batch: u32, m: u32, n: u32, sum: ${scalar}) {`,
      ...indent([...block.lines, ...writes.flat()]),
      "}",
    ];
  });
}
