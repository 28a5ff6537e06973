// Package netns makes anonymous network namespaces for the lab.
//
// A [Namespace] has no name and no file: descriptors and one thread of this
// process hold it, so the kernel removes it, its interfaces and the programs
// that were started inside, with their descendants, when the process ends, by
// kill -9, too. There is never anything to tidy.
//
// Which namespace a socket or a child belongs to is decided by the thread that
// makes it, at that moment. [Namespace.Do] lends such a thread; sockets from
// [Namespace.Listen], [Namespace.ListenPacket] and [Namespace.Dial] work from
// everywhere afterwards, and a child of [Namespace.Start] lives inside.
//
// A [TUN] is the cable: an interface inside a namespace whose other end is this
// process, which reads and writes whole IP packets.
//
// Making a namespace needs Linux and root, adding addresses the program ip of
// iproute2. [Available] says what is missing.
package netns
