/** A peer as the runner sees it: started when the first row needs it, with what its sides use measured around each run. */

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { hasCommand, type Peer, type RunningPeer } from './peer.js';
import { countSystemCalls } from './perf.js';
import { Place, type Sizes } from './place.js';
import { type Interval, nowUs } from './profile_shares.js';
import type { Measurement, Row, Side } from './row.js';
import type { Contender } from './runner.js';
import type { Site } from './site.js';
import type { Sources } from './sources.js';

export interface PeerOptions {
  readonly site: Site;
  /** The C program. */
  readonly tool: string;
  readonly sizes: Sizes;
  readonly sources: Sources;
}

/** Why a row makes no sense on a peer; undefined: it does. */
export function cannotRun(row: Row, peer: Peer): string | undefined {
  if (row.drop === 'client' && !peer.hasClient) return 'has no client';
  if ((row.mounts ?? 1) > 1 && peer.secondMount === 'none') return 'mounts share nothing';
  if (row.needs !== undefined && !hasCommand(row.needs.command)) {
    return `not installed: apt-get install ${row.needs.debian}`;
  }
  return undefined;
}

export class PeerContender implements Contender {
  readonly name: string;
  /** When its rows ran. */
  readonly ran = new Map<string, readonly Interval[]>();
  readonly #peer: Peer;
  readonly #options: PeerOptions;
  #running: RunningPeer | undefined;
  #place: Place | undefined;

  constructor(peer: Peer, options: PeerOptions) {
    this.name = peer.name;
    this.#peer = peer;
    this.#options = options;
  }

  cannot(row: Row): string | undefined {
    return cannotRun(row, this.#peer);
  }

  async start(): Promise<RunningPeer> {
    this.#running ??= await this.#peer.start(this.#options.site);
    return this.#running;
  }

  async #placeOf(row: Row): Promise<Place> {
    const running = await this.start();
    if (this.#place === undefined) {
      const folder = join(running.mountpoint, 'bench');
      mkdirSync(folder);
      const { site, tool, sizes, sources } = this.#options;
      this.#place = new Place(site, folder, tool, sizes, sources);
    }
    for (let index = this.#place.folders.length; index < (row.mounts ?? 1); index++) {
      this.#place.folders.push(join(await running.mount(index), 'bench'));
    }
    return this.#place;
  }

  async ready(row: Row): Promise<void> {
    const place = await this.#placeOf(row);
    await row.prepare?.(place);
    const running = await this.start();
    await running.settle();
    if (row.drop !== 'nothing') await running.drop(row.drop);
  }

  async measure(row: Row): Promise<Measurement> {
    const [place, running] = [await this.#placeOf(row), await this.start()];
    const rpcsBefore = await running.rpcs?.();
    const before = this.#cpuUs();
    const fromUs = nowUs();
    const sample = await row.run(place);
    const after = this.#cpuUs();
    this.ran.set(row.name, [...(this.ran.get(row.name) ?? []), { fromUs, toUs: nowUs() }]);
    const rpcsAfter = await running.rpcs?.();
    const used = (side: Side): number => after[side] - before[side];
    const cpuUs = { server: used('server'), client: used('client'), application: used('application') };
    // What is still to be written would be written while the next peer runs.
    await running.settle();
    if (rpcsBefore === undefined || rpcsAfter === undefined) return { ...sample, cpuUs };
    return { ...sample, cpuUs, rpcs: rpcsAfter - rpcsBefore };
  }

  #cpuUs(): Readonly<Record<Side, number>> {
    const { server, client, application } = this.#options.site.sides;
    return { server: server.usageUs(), client: client.usageUs(), application: application.usageUs() };
  }

  async systemCalls(row: Row): Promise<Readonly<Record<Side, number>>> {
    const place = await this.#placeOf(row);
    return await countSystemCalls(this.#options.site.sides, () => row.run(place));
  }

  /** Ends it in order, if it was started. */
  async stop(): Promise<void> {
    const running = this.#running;
    this.#running = undefined;
    await running?.stop();
  }
}
