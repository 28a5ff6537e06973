//go:build unix

package handover

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"busel/internal/wire"
	"busel/transport"
)

// Types of messages on the link.
const (
	msgSocket  = 'f' // old to new: a descriptor; the body is its name
	msgBegin   = 'b' // old to new: that was all; the body is a version, u8
	msgReady   = 'r' // new to old: it could serve
	msgFailed  = 'e' // new to old: it could not; the body is why
	msgGo      = 'g' // old to new: nobody is accepted here any more
	msgCarrier = 'c' // new to old: a descriptor, over which a hello comes
	msgStatus  = 's' // new to old: a descriptor, over which JSON is wanted
	msgReload  = 'h' // new to old: read the settings again
)

const (
	// variable tells a process which of its descriptors is the link.
	variable = "BUSEL_HANDOVER"
	// maxBody bounds a message's body on the link, in bytes.
	maxBody = 4 << 10
	// socketBuffer keeps small what lies between the processes: a frame there
	// cannot be overtaken.
	socketBuffer = 64 << 10
)

// link is one end of what the processes say to each other.
type link struct {
	conn *net.UnixConn
	mu   sync.Mutex // of writes
}

// send sends a message with a descriptor, or none if fd is negative. A process that
// lives and does not read costs [answerTime], not the hellos that come after.
func (l *link) send(kind byte, body []byte, fd int) error {
	body = body[:min(len(body), maxBody)]
	b := binary.BigEndian.AppendUint32([]byte{kind}, uint32(len(body)))
	b = append(b, body...)
	var rights []byte
	if fd >= 0 {
		rights = syscall.UnixRights(fd)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	_ = l.conn.SetWriteDeadline(time.Now().Add(answerTime))
	n, _, err := l.conn.WriteMsgUnix(b, rights, nil)
	if err == nil && n < len(b) {
		if _, err = l.conn.Write(b[n:]); err != nil { // nobody could tell where the next one begins
			_ = l.conn.Close()
		}
	}
	return err
}

// receive reads a message and the descriptor that came with it, nil if none did.
func (l *link) receive() (kind byte, body []byte, fd *os.File, err error) {
	var head [5]byte
	rights := make([]byte, 64)
	for got := 0; got < len(head) && err == nil; {
		var n, m int
		n, m, _, _, err = l.conn.ReadMsgUnix(head[got:], rights)
		if n == 0 && err == nil {
			err = io.EOF
		}
		got += n
		if m > 0 && fd == nil {
			fd = descriptor(rights[:m])
		}
	}
	n := binary.BigEndian.Uint32(head[1:])
	if err == nil && n > maxBody {
		err = errMessage
	}
	if err == nil {
		body = make([]byte, n)
		_, err = io.ReadFull(l.conn, body)
	}
	if err != nil && fd != nil {
		_ = fd.Close()
		fd = nil
	}
	return head[0], body, fd, err
}

// descriptor takes the first of the descriptors of a control message and closes
// the others.
func descriptor(rights []byte) (first *os.File) {
	all, err := syscall.ParseSocketControlMessage(rights)
	if err != nil {
		return nil
	}
	for i := range all {
		fds, err := syscall.ParseUnixRights(&all[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if first == nil {
				first = os.NewFile(uintptr(fd), "handed over")
			} else {
				_ = syscall.Close(fd)
			}
		}
	}
	return first
}

// pair makes two connected sockets, the second one for another process.
func pair() (*net.UnixConn, *os.File, error) {
	syscall.ForkLock.RLock()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err == nil {
		syscall.CloseOnExec(fds[0])
		syscall.CloseOnExec(fds[1])
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "handover")
	ours, err := unixConn(os.NewFile(uintptr(fds[0]), "handover"))
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	return ours, theirs, nil
}

// unixConn makes a connection of a descriptor, and closes that.
func unixConn(f *os.File) (*net.UnixConn, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		_ = c.Close()
		return nil, errors.New("handover: not a Unix socket")
	}
	_ = u.SetWriteBuffer(socketBuffer)
	return u, nil
}

// Successor is the new process, seen from the old one. It is a
// [transport.Listener] of the hellos that the new one asks about.
type Successor struct {
	link
	cmd     *exec.Cmd
	log     *slog.Logger
	exited  chan struct{}
	pending chan *pending
	closed  chan struct{}
	closing sync.Once
}

var _ transport.Listener = (*Successor)(nil)

// Start runs a command, with the environment and standard error of this process, as
// the successor of it. The caller then calls Give for each socket, and Ready; in the
// end Close, or Abort while it is not ready. log may be nil.
func Start(command []string, log *slog.Logger) (*Successor, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	s := &Successor{
		link: link{conn: ours}, log: log, cmd: exec.Command(command[0], command[1:]...),
		exited: make(chan struct{}), pending: make(chan *pending), closed: make(chan struct{}),
	}
	// WATCHDOG_PID names this process (sd_watchdog_enabled(3)).
	s.cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, variable+"=") || strings.HasPrefix(v, "WATCHDOG_PID=")
	}), variable+"=3")
	s.cmd.Stdout, s.cmd.Stderr = os.Stdout, os.Stderr
	s.cmd.ExtraFiles = []*os.File{theirs}
	if err := s.cmd.Start(); err != nil {
		_ = ours.Close()
		return nil, fmt.Errorf("the new relayd does not start: %w", err)
	}
	go func() {
		defer close(s.exited)
		if err := s.cmd.Wait(); err != nil {
			log.Debug("new relayd ended", "err", err)
		}
	}()
	return s, nil
}

// PID is the new process's.
func (s *Successor) PID() int { return s.cmd.Process.Pid }

// Give gives the new process a copy of a socket or file. One that is closed is
// left out.
func (s *Successor) Give(name string, c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	var sent error
	if err := raw.Control(func(fd uintptr) { sent = s.send(msgSocket, []byte(name), int(fd)) }); err != nil {
		return nil
	}
	return sent
}

// Ready says that everything was given, and waits until the new process could
// serve. The error has its words if it could not.
func (s *Successor) Ready(ctx context.Context) error {
	told := s.send(msgBegin, []byte{Version}, -1) // if it has ended, it may have said why
	stop := context.AfterFunc(ctx, func() { _ = s.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	kind, body, fd, err := s.receive()
	if fd != nil {
		_ = fd.Close()
	}
	switch {
	case ctx.Err() != nil:
		return errors.New("the new relayd was not ready in time")
	case err != nil:
		return s.ended(cmp.Or(told, err))
	case kind == msgFailed:
		return fmt.Errorf("the new relayd cannot serve: %s", body)
	case kind != msgReady:
		return fmt.Errorf("the new relayd said %q, which this one does not know", kind)
	}
	return nil
}

func (s *Successor) ended(err error) error {
	return fmt.Errorf("the new relayd ended before it was ready, as its log says: %w", err)
}

// Abort ends the new process and waits for it.
func (s *Successor) Abort() {
	_ = s.cmd.Process.Kill()
	_ = s.Close()
	<-s.exited
}

// Go tells the new process that nobody is accepted here any more.
func (s *Successor) Go() error { return s.send(msgGo, nil, -1) }

// Serve answers what the new process asks until that or ctx ends; reload is called
// when it was told to read its settings again, and status must become JSON.
func (s *Successor) Serve(ctx context.Context, status func() any, reload func()) error {
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.Close()
	for {
		kind, _, fd, err := s.receive()
		if err != nil {
			return err
		}
		if kind == msgReload {
			reload()
		}
		if fd == nil {
			continue
		}
		conn, err := unixConn(fd)
		if err != nil {
			s.log.Debug("what was handed over is no socket", "err", err)
			continue
		}
		switch kind {
		case msgCarrier:
			wg.Go(func() { s.offer(conn) })
		case msgStatus:
			wg.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(answerTime))
				if err := json.NewEncoder(conn).Encode(status()); err != nil {
					s.log.Debug("status was not told", "err", err)
				}
			})
		default:
			_ = conn.Close()
		}
	}
}

// offer reads a hello and hands it to Accept.
func (s *Successor) offer(conn net.Conn) {
	p, err := hear(conn)
	if err != nil {
		s.log.Debug("hello was not handed over", "err", err)
		_ = conn.Close()
		return
	}
	select {
	case s.pending <- p:
	case <-s.closed:
		_ = p.Close()
	}
}

// Accept implements [transport.Listener].
func (s *Successor) Accept(ctx context.Context) (transport.Pending, error) {
	select {
	case p := <-s.pending:
		return p, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.closed:
		return nil, fmt.Errorf("handover: %w", net.ErrClosed)
	}
}

// Close ends the link; carriers live on. The new process goes on.
func (s *Successor) Close() error {
	s.closing.Do(func() { close(s.closed) })
	return s.conn.Close()
}

// Elder is the old process, seen from the new one.
type Elder struct {
	link
	sockets map[string]*os.File // that nobody took yet
	ready   bool                // or failed
	gone    chan struct{}
}

// Inherit returns the process that this one is to follow, nil if there is none,
// with the sockets that it gave.
func Inherit(lookup func(string) (string, bool)) (*Elder, error) {
	v, ok := lookup(variable)
	if !ok {
		return nil, nil
	}
	if v != "3" {
		return nil, fmt.Errorf("%s=%q is not for you: it is set by a relayd that hands over", variable, v)
	}
	syscall.CloseOnExec(3)
	conn, err := unixConn(os.NewFile(3, "handover"))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", variable, err)
	}
	return inherit(conn)
}

func inherit(conn *net.UnixConn) (*Elder, error) {
	e := &Elder{link: link{conn: conn}, sockets: make(map[string]*os.File), gone: make(chan struct{})}
	_ = conn.SetReadDeadline(time.Now().Add(answerTime))
	for {
		kind, body, fd, err := e.receive()
		switch {
		case err != nil:
			_ = conn.Close()
			return nil, fmt.Errorf("handover: %w", err)
		case kind == msgSocket && fd != nil:
			e.sockets[string(body)] = fd
			continue
		case fd != nil:
			_ = fd.Close()
		}
		if kind != msgBegin {
			continue
		}
		_ = conn.SetReadDeadline(time.Time{})
		if len(body) == 0 || body[0] != Version {
			err := errors.New("the running relayd is of a version that hands over in another way; restart the relay instead")
			e.Fail(err)
			return nil, err
		}
		return e, nil
	}
}

// Take returns a socket or file that the old process gave, nil if it gave none of
// that name or it was taken. The caller closes it.
func (e *Elder) Take(name string) *os.File {
	f := e.sockets[name]
	delete(e.sockets, name)
	return f
}

// Ready tells the old process that this one could serve, and waits until nobody is
// accepted there any more. Sockets that nobody took are closed. If the old process
// ends instead, there is none to wait for.
func (e *Elder) Ready(ctx context.Context) error {
	for name := range e.sockets {
		_ = e.Take(name).Close()
	}
	e.ready = true
	stop := context.AfterFunc(ctx, func() { _ = e.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if e.send(msgReady, nil, -1) != nil {
		return nil
	}
	for {
		kind, _, fd, err := e.receive()
		if fd != nil {
			_ = fd.Close()
		}
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil || kind == msgGo:
			return nil
		}
	}
}

// Fail tells the old process, once and before Ready, that this one cannot serve.
func (e *Elder) Fail(err error) {
	if e.ready {
		return
	}
	e.ready = true
	_ = e.send(msgFailed, []byte(err.Error()), -1) // it may have gone
	_ = e.conn.Close()
}

// Run waits until the old process has ended, and returns when ctx has.
func (e *Elder) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = e.conn.Close() })
	defer stop()
	for {
		_, _, fd, err := e.receive()
		if fd != nil {
			_ = fd.Close()
		}
		if err != nil {
			break
		}
	}
	close(e.gone)
	<-ctx.Done()
	_ = e.conn.Close()
	return context.Cause(ctx)
}

// Gone is closed when the old process has ended, while Run runs.
func (e *Elder) Gone() <-chan struct{} { return e.gone }

// Reload tells the old process to read its settings again.
func (e *Elder) Reload() error { return e.send(msgReload, nil, -1) }

// open gives the old process one end of a fresh pair.
func (e *Elder) open(kind byte) (*net.UnixConn, error) {
	select {
	case <-e.gone:
		return nil, net.ErrClosed
	default:
	}
	ours, theirs, err := pair()
	if err != nil {
		return nil, err
	}
	err = e.send(kind, nil, int(theirs.Fd()))
	_ = theirs.Close()
	if err != nil {
		_ = ours.Close()
		return nil, err
	}
	return ours, nil
}

// Status asks the old process for its status, and decodes the JSON into v.
func (e *Elder) Status(v any) error {
	conn, err := e.open(msgStatus)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(answerTime))
	return json.NewDecoder(io.LimitReader(conn, maxMessage)).Decode(v)
}

// Offer asks whether the session of a hello is the old process's. If not, taken is
// false and p unanswered. Otherwise Offer answers p and stays with the carrier
// until it ends. An error with taken false means that the old process does not
// answer though it lives, and p is not answered either.
func (e *Elder) Offer(ctx context.Context, p transport.Pending) (taken bool, err error) {
	conn, err := e.open(msgCarrier)
	if err != nil {
		return false, e.unlessGone(err)
	}
	accept, known, err := ask(conn, p.Hello())
	if err != nil || !known {
		_ = conn.Close()
		return false, e.unlessGone(err)
	}
	c, err := p.Answer(accept)
	if err != nil || c == nil {
		if err == nil {
			err = &wire.StatusError{Status: accept.Status}
		}
		_ = conn.Close()
		return true, err
	}
	return true, bridge(ctx, c, conn)
}

// unlessGone is err, but nil if the old process has ended: then it has no sessions.
func (e *Elder) unlessGone(err error) error {
	for _, end := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, end) {
			return nil
		}
	}
	return err
}
