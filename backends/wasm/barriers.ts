/** After which steps of a program its threads must wait for each other. */

/** Part of a memory: `from` … `to` of one of several spaces that never overlap. */
export interface Span {
  readonly space: number;
  readonly from: number;
  readonly to: number;
}

/** What a step does to memory. */
export interface TouchingStep {
  /** Number of chunks; a single one is done by the first thread. */
  readonly grid: number;
  readonly reads: readonly Span[];
  readonly writes: readonly Span[];
}

/**
 * Places a barrier between any two steps of which one touches what the other one writes, and that may run on different threads.
 *
 * Two neighbours of one chunk each run on the first thread, in order, and the pool drops a barrier between them; so it goes where
 * the last step of several chunks ends.
 */
export function placeBarriers(steps: readonly TouchingStep[]): boolean[] {
  const barriers = steps.map(() => false);
  const alone = (i: number) => steps[i]?.grid === 1;
  let since: number[] = [];
  steps.forEach((step, i) => {
    const waits = since.some((earlier) => {
      const other = steps[earlier] as TouchingStep;
      if (alone(earlier) && alone(i)) return false;
      return meet(step.reads, other.writes) || meet(step.writes, other.writes) || meet(step.writes, other.reads);
    });
    if (waits) {
      let after = i - 1;
      while (alone(after) && alone(after + 1)) after--;
      barriers[after] = true;
      since = since.filter((earlier) => earlier > after);
    }
    since.push(i);
  });
  return barriers;
}

const meet = (some: readonly Span[], others: readonly Span[]): boolean =>
  some.some((a) => others.some((b) => a.space === b.space && a.from < b.to && b.from < a.to));
