//go:build unix

package systemd

import (
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// NotifyHeard returns only when the service manager has read what came before: here
// one that reads in the order of arrival and then closes what the barrier brought.
func TestNotifyHeard(t *testing.T) {
	addr := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n := New(env(map[string]string{"NOTIFY_SOCKET": addr}))
	_ = l.SetReadDeadline(time.Now().Add(10 * time.Second))
	done := make(chan error, 1)
	go func() { done <- n.NotifyHeard(MainPID(7)) }()
	text, rights := make([]byte, 100), make([]byte, syscall.CmsgSpace(4))
	size, _, _, _, err := l.ReadMsgUnix(text, rights)
	if err != nil || string(text[:size]) != "MAINPID=7" {
		t.Fatalf("%q, %v", text[:size], err)
	}
	size, many, _, _, err := l.ReadMsgUnix(text, rights)
	if err != nil || string(text[:size]) != "BARRIER=1" {
		t.Fatalf("%q, %v", text[:size], err)
	}
	messages, err := syscall.ParseSocketControlMessage(rights[:many])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%v, %v", messages, err)
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%v, %v", fds, err)
	}
	select {
	case err := <-done:
		t.Errorf("it did not wait: %v", err)
	default:
	}
	if err := syscall.Close(fds[0]); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := new(Notifier).NotifyHeard(Ready); err != nil {
		t.Errorf("without a service manager: %v", err)
	}
}
