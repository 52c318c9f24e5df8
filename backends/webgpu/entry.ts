/** Entry points: grids, and the lines that turn indices of the grid into loop variables. */
import { wrap } from "./text.ts";

/** One dispatch of a module. */
export interface Dispatch {
  readonly entryPoint: string;
  /** Workgroups along x, y and z. */
  readonly grid: readonly [number, number, number];
}

/** What every device allows along one dimension of a grid. */
const MOST_GROUPS = 65535;

/** A grid of `groups` workgroups, folded to two dimensions where one cannot hold it. */
export function foldGrid(groups: number): readonly [number, number, number] {
  if (groups <= MOST_GROUPS) return [groups, 1, 1];
  const rows = Math.ceil(groups / MOST_GROUPS);
  return [Math.ceil(groups / rows), rows, 1];
}

/** Text of the workgroup's number in a folded grid, and the line that ends workgroups beyond the last one, where there are any. */
export function groupNumber(groups: number, name: string): string[] {
  const [x, y] = foldGrid(groups);
  if (y === 1) return [`let ${name} = workgroup_id.x;`];
  return [
    `let ${name} = workgroup_id.y * ${x}u + workgroup_id.x;`,
    ...(x * y > groups ? [`if (${name} >= ${groups}u) { return; }`] : []),
  ];
}

/** Head of an entry point. */
export const entryHead = (name: string, threads: number): string[] => [
  `@compute @workgroup_size(${threads})`,
  `fn ${name}(@builtin(workgroup_id) workgroup_id: vec3<u32>, @builtin(local_invocation_index) lane: u32) {`,
];

/** Lines that name the coordinates of point number `index` of a box, last axis fastest. */
export function coordinates(index: string, names: readonly string[], extents: readonly number[]): string[] {
  const lines: string[] = [];
  let inner = 1;
  for (let axis = extents.length - 1; axis >= 0; axis--) {
    const extent = extents[axis] ?? 1, outermost = extents.slice(0, axis).every((dim) => dim === 1);
    const quotient = inner === 1 ? index : `${wrap(index)} / ${inner}u`;
    if (extent === 1) lines.push(`let ${names[axis]} = 0u;`);
    else lines.push(`let ${names[axis]} = ${outermost ? quotient : `${quotient} % ${extent}u`};`);
    inner *= extent;
  }
  return lines.reverse();
}
