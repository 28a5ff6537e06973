package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"

	"busel/config"
	"busel/internal/state"
)

// login is what programs have to say to the proxy; empty: nothing.
type login struct{ user, password string }

// loginOf is the login, which the file of its own has if client.toml has none. The error
// wraps [state.ErrSealed] if there is one that cannot be read yet.
func loginOf(dir *state.Dir, set config.Client) (login, error) {
	if set.User != "" {
		return login{set.User, string(set.Password)}, nil
	}
	text, err := dir.ReadSecret(state.PasswordFile)
	if errors.Is(err, fs.ErrNotExist) {
		return login{}, nil
	}
	user, password, _ := strings.Cut(string(text), "\n")
	return login{user, password}, err
}

// demanded is loginOf, or what nobody knows if it cannot be read; untold: not before the
// passphrase is given.
func demanded(dir *state.Dir, set config.Client, log *slog.Logger) (l login, untold bool) {
	l, err := loginOf(dir, set)
	if untold = errors.Is(err, state.ErrSealed); err != nil && !untold {
		log.Warn("the proxy's password cannot be read, so no program may use it; write user and password into client.toml", "err", err)
		l = login{rand.Text(), rand.Text()}
	}
	return l, untold
}

// keepLogin puts the login where it belongs: under the passphrase if there is one, and
// into client.toml if there is none. Whatever ends the program meanwhile, it is in one of
// the places.
func keepLogin(dir *state.Dir) error {
	set, err := settings(dir)
	if err != nil {
		return err
	}
	has, err := dir.HasPassphrase()
	if err != nil {
		return err
	}
	text, err := dir.Read(state.ClientFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	have, err := loginOf(dir, set)
	switch {
	case err != nil:
		return err
	case have.user == "", has == (set.User == ""):
		return nil
	case has:
		if err := dir.Write(state.PasswordFile, []byte(have.user+"\n"+have.password)); err != nil {
			return err
		}
		if text, err = config.EditLogin(state.ClientFile, text, "", ""); err != nil {
			return fmt.Errorf("the proxy's password stays readable in %s: %w", state.ClientFile, err)
		}
		return dir.Overwrite(state.ClientFile, text)
	}
	if text, err = config.EditLogin(state.ClientFile, text, have.user, have.password); err != nil {
		return fmt.Errorf("the proxy's password stays in the file %s: %w", state.PasswordFile, err)
	}
	if err := dir.Write(state.ClientFile, text); err != nil {
		return err
	}
	return dir.Forget(state.PasswordFile)
}
