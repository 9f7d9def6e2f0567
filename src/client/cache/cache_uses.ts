/** How often the caches had what the kernel asked for: plain numbers, because each request counts. */

export interface HitsAndMisses {
  hit: number;
  miss: number;
}

export class CacheUses {
  /** READs. */
  readonly pages: HitsAndMisses = { hit: 0, miss: 0 };
  /** GETATTRs. */
  readonly attributes: HitsAndMisses = { hit: 0, miss: 0 };
  /** LOOKUPs. */
  readonly names: HitsAndMisses = { hit: 0, miss: 0 };
  /** Content that the kernel asked for, and that it brought. */
  readonly bytes = { read: 0, write: 0 };
}
