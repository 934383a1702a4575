//! A user by name, from a container's own `/etc/passwd` and `/etc/group`: runc takes numbers only.
//!
//! The rules are docker's: `user`, `uid`, each with `:group` or `:gid`; a number that is in no file is used as it is, with
//! group 0; the supplementary groups are those that list the user, unless a group was asked for.

/// Who a command runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct User {
    /// Numeric user id.
    pub uid: u32,
    /// Numeric primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
    /// Home directory; `None` when the user is in no passwd file.
    pub home: Option<String>,
}

/// True for a `remote_user` that needs neither file: `uid:gid`, both numbers.
pub fn is_numeric(spec: &str) -> bool {
    spec.split_once(':')
        .is_some_and(|(user, group)| user.parse::<u32>().is_ok() && group.parse::<u32>().is_ok())
}

/// Resolves `spec` in the texts of the two files; an error is a reason for a sentence.
pub fn resolve(spec: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (user, asked_group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (spec, None),
    };
    let entry = passwd.lines().find_map(|line| Entry::parse(line).filter(|entry| entry.is(user)));
    let mut found = match (&entry, user.parse::<u32>()) {
        (Some(entry), _) => {
            User { uid: entry.uid, gid: entry.gid, groups: vec![], home: Some(entry.home.to_owned()) }
        }
        (None, Ok(uid)) => User { uid, ..User::default() },
        (None, Err(_)) => return Err("it is not in the container's /etc/passwd".to_owned()),
    };
    match asked_group {
        Some(asked) => {
            let in_file = groups(group)
                .find(|(name, gid, _)| *name == asked || gid.to_string() == asked)
                .map(|(_, gid, _)| gid);
            found.gid = in_file
                .or_else(|| asked.parse().ok())
                .ok_or_else(|| format!("its group {asked:?} is not in the container's /etc/group"))?;
        }
        None => {
            if let Some(Entry { name, .. }) = entry {
                found.groups = groups(group)
                    .filter(|(_, _, members)| members.split(',').any(|member| member.trim() == name))
                    .map(|(_, gid, _)| gid)
                    .collect();
            }
        }
    }
    Ok(found)
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let (_gecos, home) = (fields.next()?, fields.next()?);
        Some(Self { name, uid, gid, home })
    }

    fn is(&self, user: &str) -> bool {
        self.name == user || self.uid.to_string() == user
    }
}

fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _password) = (fields.next()?, fields.next()?);
        Some((name, fields.next()?.parse().ok()?, fields.next().unwrap_or_default()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\n# junk\nbad:x:y\napp:x:1000:1001:App:/home/app:/bin/sh\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nextra:x:2000:bob,app\nwheel:x:10:app\nbad\n";

    fn user(uid: u32, gid: u32, groups: &[u32], home: Option<&str>) -> User {
        User { uid, gid, groups: groups.to_vec(), home: home.map(str::to_owned) }
    }

    #[test]
    fn names_numbers_and_groups() {
        let app = user(1000, 1001, &[2000, 10], Some("/home/app"));
        assert_eq!(resolve("app", PASSWD, GROUP), Ok(app.clone()));
        assert_eq!(resolve("1000", PASSWD, GROUP), Ok(app));
        assert_eq!(resolve("app:wheel", PASSWD, GROUP), Ok(user(1000, 10, &[], Some("/home/app"))));
        assert_eq!(resolve("app:77", PASSWD, GROUP), Ok(user(1000, 77, &[], Some("/home/app"))));
        assert_eq!(resolve("4242", PASSWD, GROUP), Ok(user(4242, 0, &[], None)));
        assert_eq!(resolve("4242:1", "", ""), Ok(user(4242, 1, &[], None)));
        assert!(resolve("nosuch", PASSWD, GROUP).unwrap_err().contains("/etc/passwd"));
        assert!(resolve("app:nosuch", PASSWD, GROUP).unwrap_err().contains("/etc/group"));
    }

    #[test]
    fn only_a_pair_of_numbers_needs_no_file() {
        assert!(is_numeric("1:2"));
        assert!(!is_numeric("1") && !is_numeric("app:2") && !is_numeric("1:"));
    }

    proptest! {
        #[test]
        fn hostile_files_never_panic(spec in ".*", passwd in ".*", group in ".*") {
            let _ = resolve(&spec, &passwd, &group);
        }
    }
}
