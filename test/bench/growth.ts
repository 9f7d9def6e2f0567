/** The second table, how cost grows: with the entries of a directory, with clients, and with open files. */

import { mkdirSync } from 'node:fs';
import type { Place } from './place.js';
import type { Row, Sample, Side } from './row.js';

const ENTRIES = [1000, 10_000, 100_000, 1_000_000];
const CLIENTS = [1, 2, 4, 8, 16];
const OPEN_FILES = [10_000, 30_000, 100_000];
/** Names that a row makes, looks at or removes in a directory: few beside those that are there. */
const TOUCHED = 200;
const CREATED_BY_EACH = 500;
const NO_BYTES = '0';

/** A folder whose files are made as far as they are needed, and never removed. */
class GrowingFolder {
  readonly #name: string;
  readonly #made = new WeakMap<Place, number>();

  constructor(name: string) {
    this.#name = name;
  }

  /** @returns its path, with file-000000 and so on, so many at least. */
  async with(at: Place, count: number): Promise<string> {
    const path = await at.once(this.#name, async (folder) => mkdirSync(folder));
    const made = this.#made.get(at) ?? 0;
    if (made < count) await at.tool('create', path, String(count - made), NO_BYTES, String(made));
    this.#made.set(at, Math.max(made, count));
    return path;
  }
}

/** Rows of one size of the directory. They come in the order of their sizes. */
function directoryRows(folder: GrowingFolder, entries: number): readonly Row[] {
  /** Of each place, the first numbers of names that were made beyond the entries. */
  const beyond = new WeakMap<Place, number[]>();
  const beyondOf = (at: Place): number[] => {
    const numbers = beyond.get(at) ?? [];
    beyond.set(at, numbers);
    return numbers;
  };
  const makeBeyond = async (at: Place): Promise<Sample> => {
    const numbers = beyondOf(at);
    const first = entries + numbers.length * TOUCHED;
    const made = await at.rate(
      'create',
      await folder.with(at, entries),
      String(TOUCHED),
      NO_BYTES,
      String(first),
    );
    numbers.push(first);
    return made;
  };
  const row = (name: string, more: Pick<Row, 'drop' | 'run'> & Partial<Row>): Row => ({
    name: `${name}, ${entries.toLocaleString('en-US')} entries`,
    unit: '/s',
    better: 'higher',
    group: 'directories',
    prepare: async (at) => {
      await folder.with(at, entries);
    },
    ...more,
  });
  return [
    row('create', { drop: 'nothing', run: makeBeyond }),
    row('unlink', {
      drop: 'nothing',
      prepare: async (at) => {
        if (beyondOf(at).length === 0) await makeBeyond(at);
      },
      run: async (at) => {
        const first = String(beyondOf(at).pop());
        return at.rate('names', 'unlink', await folder.with(at, entries), String(TOUCHED), first);
      },
    }),
    row('stat cold', {
      drop: 'all',
      run: async (at) => {
        const middle = String(Math.floor(entries / 2));
        return at.rate('names', 'stat', await folder.with(at, entries), String(TOUCHED), middle);
      },
    }),
    row('readdir cold', { drop: 'all', run: async (at) => at.rate('list', await folder.with(at, entries)) }),
  ];
}

/** Each client creates in a directory of its own. */
function clientRow(clients: number): Row {
  return {
    name: `create 1 KiB, ${clients} ${clients === 1 ? 'client' : 'clients'}`,
    unit: '/s',
    better: 'higher',
    group: 'clients',
    drop: 'nothing',
    mounts: clients,
    run: async (at) => {
      const folders = Array.from({ length: clients }, (_, index) => {
        const folder = at.fresh('of-client');
        mkdirSync(folder);
        return at.through(index, folder);
      });
      return at.rate('spread', String(CREATED_BY_EACH), '1024', ...folders);
    },
  };
}

function openRows(folder: GrowingFolder, files: number): readonly Row[] {
  const named = `${files.toLocaleString('en-US')} open files`;
  const prepare = async (at: Place): Promise<void> => {
    await folder.with(at, files);
  };
  const base = { group: 'open files', drop: 'nothing', prepare } as const;
  const memory = (side: Side): Row => ({
    ...base,
    name: `memory of the ${side} with ${named}`,
    unit: 'MiB',
    better: 'lower',
    run: async (at) => {
      const path = await folder.with(at, files);
      const value = await at.hold(() => at.memoryMib(side), 'open', path, String(files));
      return { value, operations: files };
    },
  });
  const open: Row = {
    ...base,
    name: `open of ${files.toLocaleString('en-US')} files`,
    unit: '/s',
    better: 'higher',
    run: async (at) => at.rate('open', await folder.with(at, files), String(files)),
  };
  return [open, memory('client'), memory('server')];
}

/** @param entriesMax of the largest directory. */
export function growthRows(entriesMax: number): readonly Row[] {
  const [directory, opened] = [new GrowingFolder('growing'), new GrowingFolder('opened')];
  return [
    ...ENTRIES.filter((entries) => entries <= entriesMax).flatMap((entries) =>
      directoryRows(directory, entries),
    ),
    ...CLIENTS.map(clientRow),
    ...OPEN_FILES.filter((files) => files <= entriesMax).flatMap((files) => openRows(opened, files)),
  ];
}
