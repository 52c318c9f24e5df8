/** @file What happens, on stderr: one line that is written over in place on a terminal, now and then a line of its own elsewhere. */

/** Where commands report to. */
export interface Progress {
  /** A line that stays. */
  line(text: string): void;
  /** What is being done at present; replaces what was said before. */
  status(text: string): void;
  /** Ends the present status. */
  end(): void;
}

/** Where the text goes, and what time it is. */
export interface ProgressOutput {
  readonly terminal: boolean;
  write(text: string): void;
  /** Milliseconds, from any start. */
  now(): number;
  /** Columns of the terminal. */
  columns(): number;
}

/** Time between two status texts, milliseconds: fast enough to the eye, and few enough lines in a log. */
const TERMINAL_INTERVAL = 100;
const PLAIN_INTERVAL = 5000;

/** A reporter; `stderrOutput()` is the usual output. */
export function createProgress(output: ProgressOutput): Progress {
  let shown = "", waiting = "", last = -Infinity;
  const interval = output.terminal ? TERMINAL_INTERVAL : PLAIN_INTERVAL;
  const show = (text: string) => {
    // Never more than a row: a wrapped line could not be written over.
    output.write(output.terminal ? `\r\x1b[2K${text.slice(0, Math.max(1, output.columns() - 1))}` : `${text}\n`);
    [shown, waiting, last] = [text, "", output.now()];
  };
  const end = () => {
    if (waiting !== "") show(waiting);
    if (shown !== "" && output.terminal) output.write("\n");
    [shown, last] = ["", -Infinity];
  };
  return {
    line: (text) => {
      end();
      output.write(`${text}\n`);
    },
    status: (text) => {
      if (output.now() - last >= interval) show(text);
      else waiting = text === shown ? "" : text;
    },
    end,
  };
}

/** Standard error, of this process. */
export function stderrOutput(): ProgressOutput {
  const encoder = new TextEncoder(), terminal = Deno.stderr.isTerminal();
  return {
    terminal,
    write: (text) => {
      const bytes = encoder.encode(text);
      for (let at = 0; at < bytes.length;) at += Deno.stderr.writeSync(bytes.subarray(at));
    },
    now: () => performance.now(),
    columns: () => terminal ? Deno.consoleSize().columns : 80,
  };
}

/** Estimates the time that is left, from the pace since the first report. */
export function createClock(now: () => number = () => performance.now()): (done: number) => string {
  let start: { readonly time: number; readonly done: number } | undefined;
  return (done) => {
    start ??= { time: now(), done };
    const gained = done - start.done;
    return gained > 0 ? `${durationText((now() - start.time) / 1000 * (1 - done) / gained)} left` : "";
  };
}

/** `42 s`, `3 min 05 s`, `2 h 10 min`. */
export function durationText(seconds: number): string {
  const whole = Math.round(seconds), two = (n: number) => String(n).padStart(2, "0");
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${two(whole % 60)} s`;
  return `${Math.floor(whole / 3600)} h ${two(Math.floor(whole % 3600 / 60))} min`;
}
