import type { Duplex } from "node:stream";

/**
 * What is written to the socket in one turn leaves in one system call. amqplib writes each frame by itself; at some
 * thousand messages a second the calls, and the wakings of the broker, cost more than all else that we do.
 */
export function writeTogether(socket: Duplex): void {
  const write = socket.write.bind(socket);
  let corked = false;
  const together = (...args: Parameters<typeof write>): boolean => {
    if (!corked) {
      corked = true;
      socket.cork();
      process.nextTick(() => {
        corked = false;
        socket.uncork();
      });
    }
    return write(...args);
  };
  // Writable: Node puts a function of its own there once the other side has ended.
  Object.defineProperty(socket, "write", { value: together, writable: true, configurable: true });
}
