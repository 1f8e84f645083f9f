/** A sleep that can be cut short; a ring while nobody sleeps cuts the next sleep. */
export class Alarm {
  #wake: (() => void) | undefined;
  #rung = false;

  sleep(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#wake = undefined;
        this.#rung = false;
        resolve();
      };
      const timer = setTimeout(done, ms);
      this.#wake = done;
      if (this.#rung) done();
    });
  }

  ring(): void {
    this.#rung = true;
    this.#wake?.();
  }
}
