/**
 * Builds that can do less, or more, than this one, as the other side sees them: what their CONNECT says. The client's code is
 * this build's; it goes by the features that were agreed on, as it does with a real peer of that kind.
 */

import type { Address, Connection, Origin, Transport } from '../../src/runtime/ports.js';
import {
  decodeHeader,
  encodeHeader,
  HEADER_SIZE,
  PROTOCOL_MAX,
  PROTOCOL_MIN,
} from '../../src/wire/header.js';
import type { RequestOf } from '../../src/wire/operation.js';
import { decode, encode } from '../../src/wire/schema.js';
import { Connect, FEATURE, FEATURES_ALL } from '../../src/wire/session.js';

export interface Build {
  readonly protocolMin: number;
  readonly protocolMax: number;
  readonly features: number;
}

export const THIS_BUILD: Build = {
  protocolMin: PROTOCOL_MIN,
  protocolMax: PROTOCOL_MAX,
  features: FEATURES_ALL,
};
/** The release before: it does not replay. */
export const RELEASE_0_1: Build = { ...THIS_BUILD, features: FEATURE.readdirPlus | FEATURE.grants };
/** A later one: a protocol more, and a feature that nobody here has heard of. */
export const LATER_BUILD: Build = {
  ...THIS_BUILD,
  protocolMax: PROTOCOL_MAX + 1,
  // The next bit.
  features: (FEATURES_ALL | (2 ** 30)) >>> 0,
};

/**
 * @param client what its CONNECT says.
 * @param serverAt what the server there can do: the rest of the client's features is left out on the way, which is what
 *   that server would do.
 */
export function spokenBy(
  transport: Transport,
  client: Build,
  serverAt: (address: Address) => Build,
): Transport {
  return {
    listen: (address, accept, tls) => transport.listen(address, accept, tls),
    connect: (address, open, options) =>
      transport.connect(
        address,
        (connection) => {
          const server = serverAt(address);
          if (client === THIS_BUILD && server === THIS_BUILD) return open(connection);
          return open(new OtherBuild(connection, client, server));
        },
        options,
      ),
  };
}

/** The first frame is CONNECT's; everything behind it passes as it is. */
class OtherBuild implements Connection {
  readonly #connection: Connection;
  readonly #client: Build;
  readonly #server: Build;
  #isConnecting = true;

  constructor(connection: Connection, client: Build, server: Build) {
    this.#connection = connection;
    this.#client = client;
    this.#server = server;
  }

  get peer(): string {
    return this.#connection.peer;
  }
  get origin(): Origin {
    return this.#connection.origin;
  }
  get bufferedBytes(): number {
    return this.#connection.bufferedBytes;
  }
  write(chunks: readonly Uint8Array[], sent?: () => void): boolean {
    const isFirst = this.#isConnecting;
    this.#isConnecting = false;
    return this.#connection.write(isFirst ? [this.#connect(Buffer.concat(chunks))] : chunks, sent);
  }
  pause(): void {
    this.#connection.pause();
  }
  resume(): void {
    this.#connection.resume();
  }
  end(): void {
    this.#connection.end();
  }
  destroy(error?: Error): void {
    this.#connection.destroy(error);
  }

  #connect(frame: Buffer): Buffer {
    const header = decodeHeader(frame);
    if (header.opcode !== Connect.opcode || frame.length !== HEADER_SIZE + header.bodyLength) {
      throw new Error('the first write is not CONNECT, and nothing else');
    }
    const said = decode(Connect.request, frame.subarray(HEADER_SIZE));
    const { protocolMin, protocolMax, features } = this.#client;
    const common = (features & this.#server.features) >>> 0;
    const request: RequestOf<typeof Connect> = {
      ...said,
      protocolMin,
      protocolMax,
      features: this.#server === THIS_BUILD ? features : common,
      // Came with replay.
      grantsInUse: (common & FEATURE.replay) === 0 ? undefined : said.grantsInUse,
    };
    const body = encode(Connect.request, request);
    return Buffer.concat([encodeHeader({ ...header, bodyLength: body.length }), body]);
  }
}
