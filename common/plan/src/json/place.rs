//! Where in a document a value stands.

use std::fmt;

/// A place in a JSON document: a path of borrowed tokens back to the root, written as a pointer only when asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    parent: Option<&'a Place<'a>>,
    token: Token<'a>,
}

#[derive(Debug, Clone, Copy)]
enum Token<'a> {
    Root,
    Field(&'a str),
    Item(usize),
}

impl<'a> Place<'a> {
    /// The whole document.
    pub(crate) const ROOT: Place<'static> = Place { parent: None, token: Token::Root };

    /// A field of the object that stands here.
    pub(crate) const fn field(&'a self, name: &'a str) -> Place<'a> {
        Place { parent: Some(self), token: Token::Field(name) }
    }

    /// An item of the list that stands here.
    pub(crate) const fn item(&'a self, index: usize) -> Place<'a> {
        Place { parent: Some(self), token: Token::Item(index) }
    }
}

/// Writes the RFC 6901 pointer: `""` for the root, else `/token/…` with `~` as `~0` and `/` as `~1`.
impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(parent) = self.parent {
            parent.fmt(f)?;
        }
        match self.token {
            Token::Root => Ok(()),
            Token::Field(name) if name.contains(['~', '/']) => {
                write!(f, "/{}", name.replace('~', "~0").replace('/', "~1"))
            }
            Token::Field(name) => write!(f, "/{name}"),
            Token::Item(index) => write!(f, "/{index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_escapes_its_tokens_and_the_root_is_empty() {
        let root = Place::ROOT;
        assert_eq!(root.to_string(), "");
        let list = root.field("a/b~c");
        assert_eq!(list.item(3).field("$from").to_string(), "/a~1b~0c/3/$from");
    }
}
