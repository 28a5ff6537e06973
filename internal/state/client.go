package state

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"busel/config"
)

const invitesDir = "invites"

// PortFile keeps the port that was drawn for the local proxy.
const PortFile = "port"

// PasswordFile keeps what programs have to say to the local proxy while the directory has a
// passphrase; else client.toml has it.
const PasswordFile = "password"

// maxInvites bounds how many invites a client holds.
const maxInvites = 256

// Invite is an invite that the client holds.
type Invite struct {
	Label  string // "r1"; stable for as long as it is held
	Name   string // the resident's own for it; may be empty
	Bundle *config.Bundle
}

// MaxName is the longest name that a resident may give an invite, in bytes.
const MaxName = 200

// ErrName means that a text cannot be an invite's name.
var ErrName = errors.New("not a name")

// namePrefix begins the line of an invite's file that has its name, the last one.
const namePrefix = "# "

// file is the invite's file.
func (v *Invite) file() []byte {
	text := v.Bundle.Text() + "\n"
	if v.Name != "" {
		text += namePrefix + v.Name + "\n"
	}
	return []byte(text)
}

// parseInvite reads an invite's file.
func parseInvite(text string) (name string, b *config.Bundle, err error) {
	text = strings.TrimRight(text, "\n")
	if at := strings.LastIndexByte(text, '\n'); at >= 0 && strings.HasPrefix(text[at+1:], namePrefix) {
		text, name = text[:at], text[at+1+len(namePrefix):]
	}
	b, err = config.ParseText(text)
	return name, b, err
}

// Rename gives the invite of that label the resident's own name; an empty one takes it
// away. The error wraps [ErrName] or [ErrNotFound].
func (d *Dir) Rename(label, name string) error {
	name = strings.TrimSpace(name)
	if len(name) > MaxName || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("%w: one line of at most %d bytes is", ErrName, MaxName)
	}
	return d.change(func() error {
		held, fault := d.Invites()
		at := slices.IndexFunc(held, func(v Invite) bool { return v.Label == label })
		if at < 0 {
			return errors.Join(fmt.Errorf("relay %q %w", label, ErrNotFound), fault)
		}
		held[at].Name = name
		return d.put(invitesDir+"/"+label, held[at].file())
	})
}

// RelayLabel is the label of the i-th relay of the bundle, from 0: "r1", then
// "r1.2" and "r1.3". It is what status and logs call a relay.
func (v *Invite) RelayLabel(i int) string {
	if i == 0 {
		return v.Label
	}
	return v.Label + "." + strconv.Itoa(i+1)
}

// InviteError is why an invite cannot be read. Err names the file.
type InviteError struct {
	Label string
	Err   error
}

func (e *InviteError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *InviteError) Unwrap() error { return e.Err }

// Invites returns the invites in the order of their labels, and for those that
// cannot be read an error that joins an [InviteError] for each; the good ones are
// returned all the same, so that one damaged file does not cost the others.
func (d *Dir) Invites() ([]Invite, error) {
	labels, err := d.labels()
	if err != nil {
		return nil, err
	}
	var held []Invite
	var faults []error
	for _, label := range labels {
		v, err := d.invite(label)
		if err != nil {
			faults = append(faults, &InviteError{label, err})
			continue
		}
		held = append(held, v)
	}
	return held, errors.Join(faults...)
}

func (d *Dir) invite(label string) (Invite, error) {
	file := invitesDir + "/" + label
	text, err := d.ReadSecret(file)
	if err != nil {
		return Invite{}, err
	}
	name, b, err := parseInvite(string(text))
	if err != nil {
		return Invite{}, fmt.Errorf("%s: %w", d.join(file), err)
	}
	return Invite{Label: label, Name: name, Bundle: b}, nil
}

// labels lists the invites' labels in ascending order.
func (d *Dir) labels() ([]string, error) {
	entries, err := fs.ReadDir(d.root.FS(), invitesDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, d.named(invitesDir, err)
	}
	var numbers []int
	for _, e := range entries {
		// Anything else, such as a left-over of a crash, is not ours to judge.
		if n, ok := labelNumber(e.Name()); ok {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	labels := make([]string, len(numbers))
	for i, n := range numbers {
		labels[i] = label(n)
	}
	return labels, nil
}

func label(n int) string { return "r" + strconv.Itoa(n) }

func labelNumber(s string) (int, bool) {
	n, err := strconv.Atoi(strings.TrimPrefix(s, "r"))
	return n, err == nil && n > 0 && s == label(n)
}

// Add takes an invite as [config.Merge] decides: it writes one file if the
// change is Added or Replaced, and nothing otherwise.
func (d *Dir) Add(b *config.Bundle) (v Invite, change config.Change, err error) {
	err = d.change(func() error {
		if err := d.root.MkdirAll(invitesDir, 0o700); err != nil {
			return d.named(invitesDir, err)
		}
		// A file that cannot be read is nobody's issuer: it keeps its label, and
		// its error is for whoever lists.
		held, _ := d.Invites()
		bundles := make([]*config.Bundle, len(held))
		for i := range held {
			bundles[i] = held[i].Bundle
		}
		var at int
		at, change = config.Merge(bundles, b)
		switch change {
		case config.Added:
			labels, err := d.labels()
			if err != nil {
				return err
			}
			if len(labels) >= maxInvites {
				return fmt.Errorf("%d invites are held already; remove some first", maxInvites)
			}
			n := 0
			if len(labels) > 0 {
				n, _ = labelNumber(labels[len(labels)-1])
			}
			v = Invite{Label: label(n + 1), Bundle: b}
		case config.Replaced:
			v = Invite{Label: held[at].Label, Name: held[at].Name, Bundle: b}
		default:
			v = held[at]
			return nil
		}
		return d.put(invitesDir+"/"+v.Label, v.file())
	})
	if err != nil {
		return Invite{}, 0, err
	}
	return v, change, nil
}

// Find returns the invite that name means: its label, the label of one of its
// relays, or, in any case and if only one invite has it, the resident's name for it or a
// relay's own. The
// error wraps [ErrNotFound].
func Find(held []Invite, name string) (Invite, error) {
	var matches []Invite
	for _, v := range held {
		named := v.Name != "" && strings.EqualFold(v.Name, name)
		for i, r := range v.Bundle.Relays {
			if v.RelayLabel(i) == name {
				return v, nil
			}
			named = named || r.Name != "" && strings.EqualFold(r.Name, name)
		}
		if named {
			matches = append(matches, v)
		}
	}
	switch len(matches) {
	case 1:
		return matches[0], nil
	case 0:
		return Invite{}, fmt.Errorf("relay %q %w; see client list", name, ErrNotFound)
	}
	return Invite{}, fmt.Errorf("relay %q %w: %d invites have a relay of that name; use the label that client list shows", name, ErrNotFound, len(matches))
}

// Remove forgets the invite that name means, see [Find]; a label works for a
// file that cannot be read too.
func (d *Dir) Remove(name string) error {
	return d.change(func() error {
		labels, err := d.labels()
		if err != nil {
			return err
		}
		if !slices.Contains(labels, name) {
			held, _ := d.Invites()
			v, err := Find(held, name)
			if err != nil {
				return err
			}
			name = v.Label
		}
		if err := d.root.Remove(invitesDir + "/" + name); err != nil {
			return d.named(invitesDir+"/"+name, err)
		}
		return d.named(invitesDir, d.syncDir(invitesDir))
	})
}
