/** @file Reads that are on their way before they are asked for, while something else is computed. */

/** Most reads that nobody has asked for yet: a few are begun for one weight, one for each tensor of what calls share. */
const MOST = 16;

/** Reads by what they read. */
export interface ReadAhead<T> {
  /** Begins to read, unless that is on its way. The oldest read that nobody has asked for is forgotten where there are too many. */
  begin(names: readonly string[]): void;
  /** What was begun, or is read now. */
  read(names: readonly string[]): Promise<T>;
}

/** Puts reads ahead of a way to read. */
export function readAhead<T>(read: (names: readonly string[]) => Promise<T>): ReadAhead<T> {
  const begun = new Map<string, Promise<T>>(), keyOf = (names: readonly string[]) => JSON.stringify(names);
  return {
    begin(names) {
      const key = keyOf(names);
      if (names.length === 0 || begun.has(key)) return;
      const reading = read(names);
      // A failure is for whoever asks.
      reading.catch(() => {});
      begun.set(key, reading);
      if (begun.size > MOST) begun.delete(begun.keys().next().value as string);
    },
    read(names) {
      const key = keyOf(names), found = begun.get(key);
      begun.delete(key);
      return found ?? read(names);
    },
  };
}
